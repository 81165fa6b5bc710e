//! Keys and values of the floor program, by which the benchmark measures the
//! product: IPv4 and UDP. Addresses and ports are in network byte order.

use crate::layout::layout;

layout! {
    pub struct Frontend: 8 {
        pub address: u32,
        pub port: u16,
        pub protocol: u16,
    }
}

layout! {
    pub struct Flow: 16 {
        pub source: u32,
        pub destination: u32,
        pub source_port: u16,
        pub destination_port: u16,
        pub protocol: u32,
    }
}

layout! {
    pub struct Backend: 12 {
        pub address: u32,
        pub port: u16,
        /// Hardware address of the next hop, in three words as they lie in a frame.
        pub mac: [u16; 3],
    }
}
