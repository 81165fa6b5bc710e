//! Sockets of this node.

use core::{ffi::c_void, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock},
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use lb_common::Tuple;

use crate::headers::{TCP, UDP};

const LISTEN: u32 = 10;

/// `bpf_sock_tuple` of the kernel for IPv4. That for IPv6 is how [`Tuple`]
/// begins.
#[repr(C)]
struct Ipv4Tuple {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
}

const IPV6_TUPLE: usize = 36;
const _: () = assert!(offset_of!(Tuple, protocol) == IPV6_TUPLE);

/// Whether a socket, other than one that listens, gets what is addressed like
/// this.
#[inline(always)]
pub(crate) fn exist(context: *mut c_void, tuple: &Tuple) -> bool {
    if !tuple.source.is_v4() {
        let tuple = ptr::from_ref(tuple).cast_mut();
        return look_up(context, tuple, tuple.cast(), IPV6_TUPLE as u32);
    }
    let mut v4 = Ipv4Tuple {
        source: tuple.source.words[3],
        destination: tuple.destination.words[3],
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
    };
    let size = size_of::<Ipv4Tuple>() as u32;
    look_up(context, tuple, ptr::from_mut(&mut v4).cast(), size)
}

#[inline(always)]
fn look_up(context: *mut c_void, of: *const Tuple, tuple: *mut c_void, size: u32) -> bool {
    const HERE: u64 = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: `tuple` has `size` bytes of what the helpers take; what they
    // return is read while it is held, and released once.
    unsafe {
        let socket: *mut bpf_sock = match (*of).protocol {
            TCP => bpf_sk_lookup_tcp(context, tuple.cast(), size, HERE, 0),
            UDP => bpf_sk_lookup_udp(context, tuple.cast(), size, HERE, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        let state = ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        state != LISTEN
    }
}
