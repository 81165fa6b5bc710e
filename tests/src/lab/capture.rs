//! Records the frames of interfaces (packet(7)).

use std::{
    io, mem,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{checksum::ChecksumReport, netns::Entrance};

const FRAME: usize = 68 * 1024;
const RECEIVE_BUFFER: usize = 64 << 20;
const POLL: Duration = Duration::from_millis(50);
/// `TP_STATUS_GSO_TCP` of linux/if_packet.h: several segments in one frame.
const TP_STATUS_GSO_TCP: u32 = 1 << 8;

/// A frame as it passed an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub interface: String,
    /// Sent by this namespace, not received.
    pub outgoing: bool,
    /// Its checksum is in place; false where an offload is still to write it,
    /// and for an aggregate of segments.
    pub finished: bool,
    /// From the Ethernet header on; a VLAN tag that the kernel has taken off
    /// is missing.
    pub bytes: Vec<u8>,
}

/// A running capture, one thread an interface.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Recording>>>,
}

/// What a capture has seen.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// In order for each interface, not among interfaces.
    pub frames: Vec<Frame>,
    /// Frames that the capture was too slow for.
    pub lost: u32,
}

impl Recording {
    /// Checks the checksums of all frames.
    #[must_use]
    pub fn checksums(&self) -> ChecksumReport {
        ChecksumReport::of(&self.frames)
    }
}

impl Capture {
    /// Starts to record; from its return on, no frame is missed.
    ///
    /// # Errors
    /// There is no such interface in the namespace.
    pub fn start(netns: &Entrance, interfaces: &[&str]) -> Result<Self> {
        let mut capture = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for interface in interfaces {
            let socket = netns
                .run(|| open(interface))
                .with_context(|| format!("capturing on {interface}"))?;
            let stop = Arc::clone(&capture.stop);
            let name = (*interface).to_owned();
            let thread = thread::spawn(move || record(&socket, &name, &stop));
            capture.threads.push(thread);
        }
        Ok(capture)
    }

    /// Ends the capture, after what is on its way.
    ///
    /// # Errors
    /// A capture socket failed.
    pub fn stop(mut self) -> Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Recording::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().map_err(|_| anyhow!("a capture panicked"))??;
            all.frames.extend(one.frames);
            all.lost += one.lost;
        }
        Ok(all)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(interface: &str) -> Result<Socket> {
    // Protocol 0 receives nothing until the socket is bound to its interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    // Beyond rmem_max where that is allowed; the count of lost frames tells.
    let _ = force_receive_buffer(&socket);
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
    socket.set_read_timeout(Some(POLL))?;
    let index = if_nametoindex(interface)?;
    socket.bind(&link_address(index, libc::ETH_P_ALL as u16)?)?;
    Ok(socket)
}

fn force_receive_buffer(socket: &Socket) -> Result<()> {
    let size = i32::try_from(RECEIVE_BUFFER)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)
}

fn set_option(socket: &Socket, level: i32, name: i32, value: &i32) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(value))?;
    // SAFETY: value is an int that outlives the call and length is its size.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    ensure!(status == 0, io::Error::last_os_error());
    Ok(())
}

/// `protocol`: what is received, an EtherType.
pub(crate) fn link_address(index: u32, protocol: u16) -> Result<SockAddr> {
    let index = i32::try_from(index)?;
    // SAFETY: sockaddr_ll fits into the storage, and its length is reported.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*link).sll_protocol = protocol.to_be();
            (*link).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

fn record(socket: &Socket, interface: &str, stop: &AtomicBool) -> io::Result<Recording> {
    let mut recording = Recording::default();
    let mut buffer = vec![0; FRAME];
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        match receive(socket, &mut buffer) {
            Ok((length, outgoing, status)) => recording.frames.push(Frame {
                interface: interface.to_owned(),
                outgoing,
                finished: status & (libc::TP_STATUS_CSUMNOTREADY | TP_STATUS_GSO_TCP) == 0,
                bytes: buffer[..length].to_vec(),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && stopping => break,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    recording.lost = lost_frames(socket)?;
    Ok(recording)
}

/// Nothing came, a signal came, or the interface went down or away.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(libc::ENETDOWN)
}

/// Length, direction and `tp_status` of the next frame.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, bool, u32)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0_u64; 16];
    // SAFETY: both are plain data for which all zeros is valid.
    let (mut from, mut message) = unsafe {
        (
            mem::zeroed::<libc::sockaddr_ll>(),
            mem::zeroed::<libc::msghdr>(),
        )
    };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of_val(&from) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers that outlive the call, with their
    // lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    Ok((length, outgoing, frame_status(&message)))
}

fn frame_status(message: &libc::msghdr) -> u32 {
    // SAFETY: recvmsg has filled the control buffer; the macros walk within the
    // length that it left there.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() };
    let Some(header) = header else {
        return 0;
    };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return 0;
    }
    // SAFETY: a message of this type carries a tpacket_auxdata, not necessarily
    // aligned.
    let data = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    data.tp_status
}

fn lost_frames(socket: &Socket) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes at most length bytes of a struct of that type.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(statistics.tp_drops)
}
