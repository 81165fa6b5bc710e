//! Connections that nobody has heard of for long, that are being removed, or
//! whose backend is gone.

use std::time::Duration;

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Life, State, Verdict};
use lb_tests::lab::{
    Family,
    Protocol::{self, Tcp, Udp},
};

use crate::{
    frame::{ACK, SYN},
    kinds,
    line::{ANSWERS, ASKS, Line, WAYS, place},
    rig::Rig,
    tables::Table,
};
use State::{
    Aborted, Answered, BackendClosed, ClientClosed, Dying, Finished, Open, Opening, Refused,
};

/// How long a connection lasts, in seconds.
const TIMEOUTS: [(Protocol, State, u64); 10] = [
    (Tcp, Opening, 120),
    (Tcp, Answered, 60),
    (Tcp, Refused, 10),
    (Tcp, Open, 432_000),
    (Tcp, ClientClosed, 120),
    (Tcp, BackendClosed, 120),
    (Tcp, Finished, 120),
    (Tcp, Aborted, 10),
    (Udp, Opening, 30),
    (Udp, Open, 120),
];

/// More than a row of a test takes.
const MARGIN: u64 = 5;

#[test]
fn a_connection_is_found_until_its_time_is_over() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (protocol, state, timeout) in TIMEOUTS {
        for way in WAYS {
            for family in Family::ALL {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.what += &format!(", {state:?}");
                check_timeout(&mut line, state, timeout);
            }
        }
    }
}

fn check_timeout(line: &mut Line<'_>, state: State, timeout: u64) {
    let what = line.what.clone();
    let idle = |line: &mut Line<'_>, seconds| {
        line.rig.tables.clear();
        line.reach(state);
        let key = line.forward_key();
        line.rig.tables.age(&key, Duration::from_secs(seconds));
    };
    idle(line, timeout - MARGIN);
    assert_eq!(line.ask(ACK), Verdict::Forward, "{what}");

    idle(line, timeout + MARGIN);
    assert_eq!(line.answer(ACK), Verdict::Reply, "{what}, not yet removed");

    idle(line, timeout + MARGIN);
    let started = match line.protocol {
        Tcp => {
            assert_eq!(line.ask(ACK), Verdict::Stray, "{what}");
            assert_eq!(line.state(), Some(place(state)), "{what}");
            line.ask(SYN)
        }
        Udp => line.ask(0),
    };
    assert_eq!(started, Verdict::Opened, "{what}");
    assert_eq!(line.state(), Some(place(Opening)), "{what}");
    assert_eq!(line.seen.port(), line.client.port(), "{what}");
}

/// A packet of either side gives it all its time again.
#[test]
fn every_packet_refreshes() {
    const TWICE: [u64; 2] = [70, 70];
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for (family, protocol) in kinds() {
            for side in [ASKS, ANSWERS] {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.establish();
                let what = format!("{}, by {side}", line.what);
                let key = line.forward_key();
                for seconds in TWICE {
                    let before = seen(&line);
                    line.rig.tables.age(&key, Duration::from_secs(seconds));
                    let verdict = line.pass((side, ACK));
                    let is_right = matches!(verdict, Verdict::Forward | Verdict::Reply);
                    assert!(is_right, "{what}: {verdict:?}");
                    let later = seen(&line).wrapping_sub(before).cast_signed();
                    assert!(later >= 0, "{what}: {later}");
                    assert_eq!(line.state(), Some(place(Open)), "{what}");
                }
            }
        }
    }
}

fn seen(line: &Line<'_>) -> u32 {
    let (_, connection) = line.rig.tables.find(&line.forward_key()).unwrap();
    Life::unpack(connection.life).seen
}

/// Whoever collects a connection marks it first: from then on no packet of the
/// client finds it, wherever it is.
#[test]
fn what_is_dying_is_not_there() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for (family, protocol) in kinds() {
            for state in [Opening, Open] {
                let mut line = Line::new(&mut rig, way, family, protocol);
                let what = format!("{}, {state:?}", line.what);
                line.reach(state);
                let key = line.forward_key();
                line.rig.tables.set_state(&key, Dying);
                if protocol == Tcp {
                    assert_eq!(line.ask(ACK), Verdict::Stray, "{what}");
                }
                assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
                // The collector ends its work.
                if line.rig.tables.is_in(Table::Assured, &key) {
                    line.rig.tables.remove_from(Table::Assured, &key);
                }
                line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK)]);
                let found = line.rig.tables.find(&key).unwrap();
                assert_eq!(Life::unpack(found.1.life).state, Open, "{what}");
            }
        }
    }
}

/// Replies may go on until the collector comes, but bring nothing back.
#[test]
fn what_is_dying_is_not_assured() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for (family, protocol) in kinds() {
            let mut line = Line::new(&mut rig, way, family, protocol);
            line.exchange(&[(ASKS, SYN)]);
            let key = line.forward_key();
            line.rig.tables.age(&key, Duration::from_secs(600));
            line.rig.tables.set_state(&key, Dying);
            line.answer(ACK);
            let assured = line.rig.tables.count(Table::Assured);
            assert_eq!(assured, 0, "{}", line.what);
        }
    }
}

#[test]
fn the_first_packet_of_a_flow_leaves_a_backend_that_is_gone() {
    use Verdict::{Forward, Opened};
    let table = [
        (Tcp, Opening, SYN, Opened),
        (Tcp, Answered, SYN, Opened),
        (Tcp, Answered, ACK, Forward),
        (Tcp, Open, SYN, Opened),
        (Tcp, Open, ACK, Forward),
        (Tcp, Finished, ACK, Forward),
        (Udp, Opening, 0, Opened),
        (Udp, Open, 0, Opened),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            for (protocol, state, flags, verdict) in table {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.reach(state);
                line.replace_backend();
                let what = format!("{}, {state:?}, {flags:#x}", line.what);
                assert_eq!(line.ask(flags), verdict, "{what}");
                if verdict == Opened {
                    assert_eq!(line.state(), Some(place(Opening)), "{what}");
                }
                assert_eq!(line.answer(ACK), Verdict::Reply, "{what}");
            }
        }
    }
}

/// There is nobody to turn to: what goes on goes on.
#[test]
fn without_any_backend_flows_keep_theirs() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for (family, protocol) in kinds() {
            let mut line = Line::new(&mut rig, way, family, protocol);
            line.establish();
            line.serve(false);
            line.exchange(&[(ASKS, ACK), (ANSWERS, ACK), (ASKS, ACK)]);
            assert_eq!(line.state(), Some(place(Open)), "{}", line.what);
        }
    }
}
