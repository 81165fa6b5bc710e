//! What each packet makes of its connection, in every state, at every hook.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{State, Verdict};
use lb_tests::lab::{Family, Protocol};

use crate::{
    frame::{ACK, FIN, Frame, RST, SYN},
    kinds, later,
    line::{ANSWERS, ASKS, INWARD, Line, Packet, WAYS, place},
    rig::Rig,
    tables::Table,
};
use State::{Aborted, Answered, BackendClosed, ClientClosed, Finished, Open, Opening, Refused};

/// Another connection begins.
const ANEW: State = State::Dying;

const FLAGS: [u8; 5] = [SYN, SYN | ACK, ACK, FIN | ACK, RST];

/// A state, and where each of [`FLAGS`] leads from there: the client's, then the
/// backend's.
type Row = (State, [State; 5], [State; 5]);

#[rustfmt::skip]
const TCP: [Row; 8] = [
    (Opening,
        [Opening, Opening, Opening, Opening, Refused],
        [Opening, Answered, Opening, Opening, Refused]),
    (Answered,
        [Answered, Answered, Open, ClientClosed, Refused],
        [Answered, Answered, Answered, BackendClosed, Refused]),
    (Refused,
        [ANEW, Refused, Refused, Refused, Refused],
        [Refused, Refused, Refused, Refused, Refused]),
    (Open,
        [Open, Open, Open, ClientClosed, Aborted],
        [Open, Open, Open, BackendClosed, Aborted]),
    (ClientClosed,
        [ANEW, ClientClosed, ClientClosed, ClientClosed, Aborted],
        [ClientClosed, ClientClosed, ClientClosed, Finished, Aborted]),
    (BackendClosed,
        [ANEW, BackendClosed, BackendClosed, Finished, Aborted],
        [BackendClosed, BackendClosed, BackendClosed, BackendClosed, Aborted]),
    (Finished,
        [ANEW, Finished, Finished, Finished, Aborted],
        [Finished, Finished, Finished, Finished, Aborted]),
    (Aborted,
        [ANEW, Aborted, Open, Aborted, Aborted],
        [Aborted, Aborted, Aborted, Aborted, Aborted]),
];

#[test]
fn every_segment_in_every_state_leads_on() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            let mut line = Line::new(&mut rig, way, family, Protocol::Tcp);
            for row in &TCP {
                check_row(&mut line, row);
            }
        }
    }
}

fn check_row(line: &mut Line<'_>, (state, by_client, by_backend): &Row) {
    let sides = [(ASKS, by_client), (ANSWERS, by_backend)];
    for (side, after) in sides {
        for (flags, &next) in FLAGS.into_iter().zip(after) {
            line.rig.tables.clear();
            line.reach(*state);
            let sender = if side == ASKS { "client" } else { "backend" };
            let what = format!("{}, {state:?}, {flags:#x} by the {sender}", line.what);
            let verdict = line.pass((side, flags));
            let expected = match side {
                ASKS if next == ANEW => (Verdict::Opened, Some(place(Opening))),
                ASKS => (Verdict::Forward, Some(place(next))),
                ANSWERS => (Verdict::Reply, Some(place(next))),
            };
            assert_eq!((verdict, line.state()), expected, "{what}");
            check_holdings(line, &what);
        }
    }
}

/// What is assured is counted, and nothing else is there.
fn check_holdings(line: &Line<'_>, what: &str) {
    let tables = &line.rig.tables;
    let (table, connection) = tables.find(&line.forward_key()).unwrap();
    let assured = u64::from(table == Table::Assured);
    let holdings = tables.holdings(connection.service);
    assert_eq!(
        (holdings.connections, holdings.refused),
        (assured, 0),
        "{what}"
    );
    let counts = [Table::Assured, Table::Unassured].map(|table| tables.count(table));
    let expected = if assured == 1 { [2, 0] } else { [0, 2] };
    assert_eq!(counts, expected, "{what}");
}

#[test]
fn a_datagram_of_each_side_opens_a_flow() {
    type Steps = &'static [(Packet, Verdict, State)];
    const STEPS: Steps = &[
        ((ASKS, 0), Verdict::Opened, Opening),
        ((ASKS, 0), Verdict::Forward, Opening),
        ((ASKS, 0), Verdict::Forward, Opening),
        ((ANSWERS, 0), Verdict::Reply, Open),
        ((ANSWERS, 0), Verdict::Reply, Open),
        ((ASKS, 0), Verdict::Forward, Open),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            let mut line = Line::new(&mut rig, way, family, Protocol::Udp);
            for (number, &(packet, verdict, state)) in STEPS.iter().enumerate() {
                let what = format!("{}, datagram {number}", line.what);
                assert_eq!(line.pass(packet), verdict, "{what}");
                assert_eq!(line.state(), Some(place(state)), "{what}");
                check_holdings(&line, &what);
            }
        }
    }
}

/// Nothing that one side says alone makes a connection assured, nor does a
/// reset before the handshake is done.
#[test]
fn it_takes_both_sides_to_be_assured() {
    const ALONE: [&[Packet]; 7] = [
        &[
            (ASKS, ACK),
            (ASKS, ACK),
            (ASKS, FIN | ACK),
            (ASKS, FIN | ACK),
        ],
        &[(ASKS, SYN | ACK), (ASKS, ACK), (ASKS, SYN), (ASKS, ACK)],
        &[(ASKS, RST), (ASKS, ACK), (ASKS, FIN | ACK), (ASKS, ACK)],
        &[
            (ANSWERS, ACK),
            (ANSWERS, FIN | ACK),
            (ANSWERS, SYN),
            (ASKS, ACK),
        ],
        &[
            (ANSWERS, SYN | ACK),
            (ANSWERS, SYN | ACK),
            (ANSWERS, ACK),
            (ASKS, SYN),
        ],
        &[
            (ANSWERS, RST | ACK),
            (ASKS, ACK),
            (ANSWERS, SYN | ACK),
            (ASKS, ACK),
        ],
        &[
            (ANSWERS, SYN | ACK),
            (ANSWERS, RST),
            (ASKS, ACK),
            (ANSWERS, FIN | ACK),
        ],
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            let mut line = Line::new(&mut rig, way, family, Protocol::Tcp);
            for packets in ALONE {
                line.rig.tables.clear();
                line.exchange(&[(ASKS, SYN)]);
                for packet in packets {
                    line.exchange(std::slice::from_ref(packet));
                    let found = line.state().unwrap();
                    assert_eq!(found.0, Table::Unassured, "{}, {packets:x?}", line.what);
                }
            }
        }
    }
}

/// The next segment of the client shows that a reset was forged; replies go on
/// all the time.
#[test]
fn a_forged_reset_heals() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            for forger in [ASKS, ANSWERS] {
                let mut line = Line::new(&mut rig, way, family, Protocol::Tcp);
                line.establish();
                let what = format!("{}, forged for {forger}", line.what);
                line.exchange(&[(forger, RST), (ANSWERS, ACK)]);
                assert_eq!(line.state(), Some((Table::Assured, Aborted)), "{what}");
                line.exchange(&[(ASKS, ACK)]);
                assert_eq!(line.state(), Some((Table::Assured, Open)), "{what}");
            }
        }
    }
}

/// A client that comes back on the ports of what is over gets a connection of
/// its own, as often as it likes.
#[test]
fn ports_are_used_again_and_again() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            let mut line = Line::new(&mut rig, way, family, Protocol::Tcp);
            for round in 0..4 {
                let what = format!("{}, round {round}", line.what);
                assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
                assert_eq!(line.seen.port(), line.client.port(), "{what}");
                line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK)]);
                check_holdings(&line, &what);
                line.exchange(&[(ANSWERS, FIN | ACK), (ASKS, FIN | ACK), (ANSWERS, ACK)]);
                assert_eq!(line.state(), Some((Table::Assured, Finished)), "{what}");
            }
        }
    }
}

/// Replies of a client's own making, and requests of a backend's, say nothing.
#[test]
fn a_packet_at_another_hook_changes_nothing() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let mut line = Line::new(&mut rig, &INWARD, family, protocol);
        line.exchange(&[(ASKS, SYN)]);
        let bytes = Frame::new(later(protocol, SYN | ACK), line.backend, line.seen).bytes();
        let outcome = line.rig.run(line.way.request, &bytes);
        assert_eq!(outcome.verdict, Verdict::OtherHook, "{}", line.what);
        assert_eq!(outcome.bytes, bytes, "{}", line.what);
        assert_eq!(line.state(), Some(place(Opening)), "{}", line.what);
    }
}
