//! Policies of IPsec, counted over netlink (linux/xfrm.h).

use std::io;

use super::Filter;
use crate::netlink::{Message, Socket, attribute};

/// NETLINK_XFRM.
const PROTOCOL: isize = 6;

/// XFRM_MSG_NEWSPDINFO and _GETSPDINFO.
const NEW_INFO: u16 = 0x24;
const GET_INFO: u16 = 0x25;
/// Flags, which mean nothing.
const HEADER: usize = 4;
/// XFRMA_SPD_INFO.
const COUNTS: u16 = 1;

/// struct xfrmu_spdinfo, but for the policies of sockets behind these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    output: u32,
    forward: u32,
}

/// Whether there are policies that forwarded traffic is held against. Those of
/// direction in are for what the node itself receives.
pub(super) async fn read() -> io::Result<Vec<Filter>> {
    let Some(socket) = open()? else {
        return Ok(Vec::new());
    };
    let request = Message {
        kind: GET_INFO,
        body: vec![0; HEADER],
    };
    let answer = socket.ask(&request).await?;
    let counts = counts(&answer).ok_or(io::ErrorKind::InvalidData)?;
    let any = counts.output > 0 || counts.forward > 0;
    Ok(any.then_some(Filter::Xfrm).into_iter().collect())
}

/// `None` if the kernel has no IPsec.
fn open() -> io::Result<Option<Socket>> {
    match Socket::open(PROTOCOL, 0) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) fn is_there() -> bool {
    open().unwrap().is_some()
}

fn counts(message: &Message) -> Option<Counts> {
    if message.kind != NEW_INFO {
        return None;
    }
    let counts = attribute(message.body.get(HEADER..)?, COUNTS)?;
    let number = |index: usize| {
        let value = counts.get(index * size_of::<u32>()..)?;
        Some(u32::from_ne_bytes(*value.first_chunk()?))
    };
    Some(Counts {
        output: number(1)?,
        forward: number(2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of the two attributes of an answer.
    const COUNTS_END: usize = 32;
    const END: usize = 44;

    /// What Linux 6.18 sends, with these counts.
    fn message(counts: [u32; 6]) -> Message {
        let mut body = vec![0; HEADER];
        body.extend(28_u16.to_ne_bytes());
        body.extend(COUNTS.to_ne_bytes());
        body.extend(counts.into_iter().flat_map(u32::to_ne_bytes));
        // XFRMA_SPD_HINFO.
        body.extend(12_u16.to_ne_bytes());
        body.extend(2_u16.to_ne_bytes());
        body.extend([7_u32, 1 << 20].into_iter().flat_map(u32::to_ne_bytes));
        Message {
            kind: NEW_INFO,
            body,
        }
    }

    #[test]
    fn policies_are_counted_by_direction() {
        let all = message([1, 2, 3, 4, 5, 6]);
        let expect = Counts {
            output: 2,
            forward: 3,
        };
        assert_eq!(all.body.len(), END);
        assert_eq!(counts(&all), Some(expect));
        for length in 0..END {
            let mut part = all.clone();
            part.body.truncate(length);
            let expect = (length >= COUNTS_END).then_some(expect);
            assert_eq!(counts(&part), expect, "{length}");
        }
    }

    #[test]
    fn another_answer_is_none() {
        let mut other = message([0; 6]);
        other.kind = GET_INFO;
        assert_eq!(counts(&other), None);
        let mut other = message([0; 6]);
        other.body[HEADER + 2] = 3;
        assert_eq!(counts(&other), None);
    }
}
