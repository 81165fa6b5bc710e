//! Echo requests to addresses of frontends.

use lb_common::{FrontendKey, Tuple, Verdict};

use crate::{
    answer::is_answerable,
    family::Family,
    icmp,
    open::is_overheard,
    packet::{Outcome, Packet, Step, at},
    services,
};

/// Turns a request that is at `message` into the reply, if there is a frontend
/// for it; `reply` is memory for the addresses of that.
#[inline(always)]
pub(crate) fn echo<P: Packet, F: Family>(
    packet: &P,
    network: usize,
    message: usize,
    tuple: &Tuple,
    reply: &mut Tuple,
) -> Step<Outcome> {
    let key = FrontendKey::echo(tuple.destination, F::VERSION);
    // Options may ask for more than an answer.
    if message != network + F::HEADER || !services::exists(key) {
        return Err(Verdict::OtherProtocol);
    }
    if is_overheard(packet) {
        return Err(Verdict::Overheard);
    }
    if !is_answerable(packet, tuple)? {
        return Err(Verdict::Unanswered);
    }
    // SAFETY: `at` has checked the bounds.
    let header = unsafe { &mut *at::<icmp::Header>(packet, network + F::HEADER)? };
    if header.code != 0 {
        return Err(Verdict::OtherProtocol);
    }
    header.become_reply(F::ECHO_REPLY);
    reply.reverse_of(tuple);
    F::write(packet, network, tuple, reply)?;
    F::renew(packet, network)?;
    Ok(Outcome::new(Verdict::Echo, packet.bounce()?))
}
