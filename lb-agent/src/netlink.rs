//! Netlink messages as bytes, where the types of a crate would lose what they
//! do not know.

use std::{convert::Infallible, io, time::Duration};

use futures::{Stream, StreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    packet_core::{
        NLA_TYPE_MASK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
    },
    proto::{ConnectionHandle, new_connection},
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{task::JoinHandle, time::timeout};

/// Dumps that a change interrupted are begun anew so many times.
const ATTEMPTS: u32 = 8;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A message behind its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    /// The fixed header of the kind, then attributes.
    pub(crate) body: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// What came without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notification {
    Message(Message),
    /// There were more than the socket holds.
    Lost,
}

/// A socket of one netlink protocol, at work in a task of its own.
pub(crate) struct Socket {
    handle: ConnectionHandle<Message>,
    notifications: UnboundedReceiver<(NetlinkMessage<Message>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl Socket {
    /// With the multicast `groups`, a bit each.
    pub(crate) fn open(protocol: isize, groups: u32) -> io::Result<Self> {
        let (mut connection, handle, notifications) = new_connection(protocol)?;
        // It may say that the dump failed half-way.
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        socket.bind(&SocketAddr::new(0, groups))?;
        Ok(Self {
            handle,
            notifications,
            connection: tokio::spawn(connection),
        })
    }

    /// The next notification; `None` when the socket is of no more use.
    pub(crate) async fn notification(&mut self) -> Option<Notification> {
        loop {
            let (message, _) = self.notifications.next().await?;
            match message.payload {
                NetlinkPayload::InnerMessage(message) => {
                    return Some(Notification::Message(message));
                }
                NetlinkPayload::Overrun(_) => return Some(Notification::Lost),
                _ => {}
            }
        }
    }

    /// All that the kernel answers to a dump request, from one state.
    pub(crate) async fn dump(&self, request: &Message) -> io::Result<Vec<Message>> {
        for _ in 0..ATTEMPTS {
            let answers = timeout(ANSWER_TIMEOUT, self.dump_once(request)).await;
            if let Some(answers) = answers?? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("changed while it was read"))
    }

    /// The only message that the kernel answers to a request.
    pub(crate) async fn ask(&self, request: &Message) -> io::Result<Message> {
        let mut answers = self.send(request, 0)?;
        let answer = timeout(ANSWER_TIMEOUT, answers.next()).await?;
        match answer.ok_or(io::ErrorKind::UnexpectedEof)?.payload {
            NetlinkPayload::InnerMessage(message) => Ok(message),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// `None` if it was interrupted by a change.
    async fn dump_once(&self, request: &Message) -> io::Result<Option<Vec<Message>>> {
        let mut answers = self.send(request, NLM_F_DUMP)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(found)),
                NetlinkPayload::Overrun(_) => return Ok(None),
                _ => {}
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Asks the kernel.
    fn send(
        &self,
        request: &Message,
        flags: u16,
    ) -> io::Result<impl Stream<Item = NetlinkMessage<Message>> + use<>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.clone()));
        let kernel = SocketAddr::new(0, 0);
        let answers = self.handle.request(message, kernel);
        answers.map_err(io::Error::other)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The attributes in `bytes`, by number; what is no attribute ends them.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .filter_map(|attribute| {
            let value = attribute.into_inner();
            let length = usize::from(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(value.get(2..4)?.try_into().ok()?);
            Some((kind & NLA_TYPE_MASK, value.get(4..length)?))
        })
}

pub(crate) fn attribute(bytes: &[u8], number: u16) -> Option<&[u8]> {
    let mut all = attributes(bytes);
    all.find(|(kind, _)| *kind == number)
        .map(|(_, value)| value)
}

/// A text attribute, which ends in a zero byte.
pub(crate) fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}
