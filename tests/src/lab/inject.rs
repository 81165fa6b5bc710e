//! Sends frames of any making (packet(7)).

use std::{io, mem, os::fd::AsRawFd, ptr, thread};

use anyhow::{Context, Result};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};

use super::{capture::link_address, netns::Entrance};

/// How many frames the kernel takes at once (UIO_MAXIOV).
const BATCH: usize = 1024;

/// Sends frames out of one interface.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
}

impl Injector {
    /// # Errors
    /// There is no such interface in the namespace.
    pub fn open(netns: &Entrance, interface: &str) -> Result<Self> {
        let open = || -> Result<Socket> {
            // Protocol 0: it is to receive nothing.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            socket.bind(&link_address(if_nametoindex(interface)?, 0)?)?;
            Ok(socket)
        };
        let socket = netns
            .run(open)
            .with_context(|| format!("sending out of {interface}"))?;
        Ok(Self { socket })
    }

    /// Waits where the interface has no room.
    ///
    /// # Errors
    /// Those of sendmmsg(2).
    pub fn send(&self, frames: &[Vec<u8>]) -> io::Result<()> {
        frames
            .chunks(BATCH)
            .try_for_each(|batch| self.send_batch(batch))
    }

    fn send_batch(&self, frames: &[Vec<u8>]) -> io::Result<()> {
        let part = |frame: &Vec<u8>| libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        };
        let mut parts: Vec<libc::iovec> = frames.iter().map(part).collect();
        let message = |part: &mut libc::iovec| {
            // SAFETY: plain data for which all zeros is valid.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = ptr::from_mut(part);
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
        let mut left = messages.as_mut_slice();
        while !left.is_empty() {
            // SAFETY: the messages point to parts, and these to frames, that
            // outlive the call; the kernel reads the frames only.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    left.as_mut_ptr(),
                    left.len() as libc::c_uint,
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => left = &mut left[sent..],
                Err(_) => wait_for_room(io::Error::last_os_error())?,
            }
        }
        Ok(())
    }
}

fn wait_for_room(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() != Some(libc::ENOBUFS) {
        return Err(error);
    }
    thread::yield_now();
    Ok(())
}

/// Link-layer address of an interface.
///
/// # Errors
/// There is no such interface in the namespace.
pub fn mac(netns: &Entrance, interface: &str) -> Result<[u8; 6]> {
    let find = || -> Result<Option<[u8; 6]>> {
        let named = getifaddrs()?.filter(|address| address.interface_name == interface);
        let mut macs = named.filter_map(|address| address.address?.as_link_addr()?.addr());
        Ok(macs.next())
    };
    netns
        .run(find)?
        .with_context(|| format!("no link-layer address on {interface}"))
}
