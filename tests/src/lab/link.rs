//! Offloads of interfaces (`SIOCETHTOOL`, linux/ethtool.h).

use std::{io, mem, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::netns::Netns;

const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Makes one end of a veth behave as a NIC does: frames leave with finished
/// checksums, and frames that XDP sends or redirects here arrive, which a veth
/// without GRO drops in silence.
pub(crate) fn behave_as_nic(netns: &Netns, interfaces: &[&str]) -> Result<()> {
    netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        for interface in interfaces {
            for (command, data) in [(ETHTOOL_STXCSUM, 0), (ETHTOOL_SGRO, 1)] {
                set(&socket, interface, &mut Value { command, data })
                    .with_context(|| format!("ethtool {command:#x} on {interface}"))?;
            }
        }
        Ok(())
    })
}

fn set(socket: &Socket, interface: &str, value: &mut Value) -> Result<()> {
    ensure!(
        interface.len() < libc::IFNAMSIZ,
        "{interface}: name too long"
    );
    // SAFETY: ifreq is plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: the request and the value that it points to outlive the call, and
    // both commands take a struct ethtool_value.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    ensure!(status == 0, io::Error::last_os_error());
    Ok(())
}
