//! What a socket knows of its path (ip(7), ipv6(7)).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

/// A UDP socket that sends nothing in parts.
pub(crate) struct PathMtu {
    socket: UdpSocket,
    /// Level, option that forbids parts, option with the MTU.
    options: [i32; 3],
    headers: usize,
}

impl PathMtu {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let (any, options, headers) = match to {
            SocketAddr::V4(_) => (
                "0.0.0.0:0",
                [libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU],
                28,
            ),
            SocketAddr::V6(_) => (
                "[::]:0",
                [libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU],
                48,
            ),
        };
        let socket = UdpSocket::bind(any)?;
        let this = Self {
            socket,
            options,
            headers,
        };
        this.socket.connect(to)?;
        this.forbid_parts()?;
        Ok(this)
    }

    /// Sends packets of `length` bytes until the socket knows of less.
    pub(crate) fn learn(&self, length: usize) -> io::Result<u32> {
        let payload = vec![7; length - self.headers];
        for _ in 0..20 {
            match self.socket.send(&payload) {
                Ok(_) => {}
                // Longer than the path, as it turned out.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
                Err(error) => return Err(error),
            }
            thread::sleep(Duration::from_millis(20));
            let mtu = self.mtu()?;
            if mtu < length as u32 {
                return Ok(mtu);
            }
        }
        self.mtu()
    }

    fn forbid_parts(&self) -> io::Result<()> {
        let value = libc::IP_PMTUDISC_DO;
        let [level, option, _] = self.options;
        // SAFETY: the value is an int, as its length says.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn mtu(&self) -> io::Result<u32> {
        let mut value = 0_u32;
        let mut length = size_of_val(&value) as u32;
        let [level, _, option] = self.options;
        // SAFETY: the value is an int, as its length says.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
