//! Packets that may change something about their connection: the first one of
//! it, those of handshakes and of goodbyes, and one a second of the others.

use lb_common::{Connection, Life, Verdict};

use crate::{
    advance, clock,
    connections::{self, Table},
    family::Family,
    headers::{Headers, UDP},
    hop,
    packet::{Outcome, Step},
    pipeline::{Way, knows_way, may_follow, set_off},
    scratch::{self, Work, lend},
    services,
    subprograms::Subprograms,
};

/// Handles the packet whose headers are in the scratch, unless it is to open a
/// connection.
#[inline(always)]
pub(crate) fn track<P: Subprograms, F: Family>(packet: &P, is_kept: u32) -> Step<Outcome> {
    const OPEN: Step<Outcome> = Err(Verdict::Opened);

    let (headers, work) = &mut scratch::get()?.split();
    let tuple = headers.tuple;
    work.halves.one_key.set(tuple);
    let table = work.found.ok_or(Verdict::NoFrontend)?;
    if is_kept != 0 {
        return follow::<P, F>(packet, headers, work, table, Verdict::Forward);
    }
    let now = clock::now();
    let connection = &work.halves.one;
    if headers.shape.is_later != 0 {
        let verdict = may_follow(packet, tuple, connection)?.unwrap_or(Verdict::Forward);
        return Ok(set_off::<P, F>(packet, verdict, Way::Unknown));
    }
    let verdict = match may_follow(packet, tuple, connection)? {
        Some(verdict) if !is_outdated(headers, connection, now) => verdict,
        _ => return OPEN,
    };
    follow::<P, F>(packet, headers, work, table, verdict)
}

/// Sends one more packet of the connection in `work.halves.one`.
#[inline(always)]
fn follow<P: Subprograms, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    work: &mut Work,
    table: Table,
    verdict: Verdict,
) -> Step<Outcome> {
    let signal = headers.signal();
    if !advance::heard(table, work, signal, clock::now()) {
        // The backend takes its packets for another connection's by now.
        return Err(match verdict {
            Verdict::Reply => Verdict::NoFrontend,
            _ => Verdict::Opened,
        });
    }
    let connection = &work.halves.one;
    let way = match knows_way::<P, F>(packet, headers, connection)? {
        true => Way::Remembered,
        false => Way::Unknown,
    };
    let outcome = lend(work, || set_off::<P, F>(packet, verdict, way));
    let is_sent = outcome.verdict() == verdict as u32;
    if is_sent && way == Way::Unknown && work.resolved {
        hop::remember(work);
        connections::remember(&work.halves.one_key, &work.hop);
    }
    Ok(outcome)
}

/// Whether the connection of a client's packet is over, so that the packet
/// starts another one or belongs to none.
#[inline(always)]
fn is_outdated(headers: &Headers<'_>, connection: &Connection, now: u32) -> bool {
    if connection.flags & Connection::REPLY != 0 {
        return false;
    }
    let life = Life::unpack(connection.life);
    if clock::is_expired(headers.tuple.protocol, life, now) {
        return true;
    }
    let is_direct = connection.flags & Connection::DIRECT != 0;
    headers.tuple.protocol != UDP
        && headers.starts_flow()
        && (life.state.is_over()
            || !is_direct && !services::is_current(connection.backend, connection.generation))
}
