//! What becomes of a connection when the kernel gives one of its two elements
//! away.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Connection, Hop, State, Verdict};
use lb_tests::lab::{
    Family,
    Protocol::{self, Tcp, Udp},
};

use crate::{
    frame::{ACK, RST, SYN},
    kinds,
    line::{ANSWERS, ASKS, Line, Packet, THROUGH, THROUGH_TC, WAYS, place},
    rig::Rig,
    socket,
    tables::Table,
    wiring::CLIENT1,
};
use State::{Answered, Open, Opening, Refused};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Forward,
    Reply,
}
use Half::{Forward, Reply};

/// What was there, which half goes, who speaks next, and what becomes of that
/// packet and of the connection; `None` if half of it is all that is left.
type Row = (Protocol, State, Half, Packet, Verdict, Option<State>);

const TABLE: [Row; 16] = {
    use Verdict::{Forward as Sent, NoFrontend, Opened, Reply as Back, Stray};
    [
        (Tcp, Opening, Reply, (ASKS, SYN), Sent, Some(Opening)),
        (Tcp, Opening, Reply, (ASKS, RST), Sent, Some(Refused)),
        (Tcp, Opening, Reply, (ANSWERS, SYN | ACK), NoFrontend, None),
        (Tcp, Opening, Forward, (ASKS, SYN), Opened, Some(Opening)),
        (Tcp, Opening, Forward, (ASKS, ACK), Stray, None),
        (
            Tcp,
            Opening,
            Forward,
            (ANSWERS, SYN | ACK),
            Back,
            Some(Answered),
        ),
        (Tcp, Opening, Forward, (ANSWERS, RST), Back, Some(Refused)),
        (Tcp, Answered, Reply, (ASKS, ACK), Sent, Some(Open)),
        (Tcp, Answered, Reply, (ASKS, SYN), Sent, Some(Answered)),
        (Tcp, Answered, Reply, (ANSWERS, SYN | ACK), NoFrontend, None),
        (
            Tcp,
            Answered,
            Forward,
            (ANSWERS, SYN | ACK),
            Back,
            Some(Answered),
        ),
        (Tcp, Answered, Forward, (ASKS, SYN), Opened, Some(Opening)),
        (Udp, Opening, Reply, (ASKS, 0), Sent, Some(Opening)),
        (Udp, Opening, Reply, (ANSWERS, 0), NoFrontend, None),
        (Udp, Opening, Forward, (ASKS, 0), Opened, Some(Opening)),
        (Udp, Opening, Forward, (ANSWERS, 0), Back, Some(Open)),
    ]
};

#[test]
fn either_half_restores_the_other() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for family in Family::ALL {
            for row in TABLE {
                let mut line = Line::new(&mut rig, way, family, row.0);
                line.what += &format!(", {row:x?}");
                check(&mut line, row);
            }
        }
    }
}

fn check(line: &mut Line<'_>, (protocol, state, half, packet, verdict, after): Row) {
    let what = line.what.clone();
    line.reach(state);
    let keys = [line.forward_key(), line.reply_key()];
    let gone = keys[usize::from(half == Reply)];
    let (_, before) = line.rig.tables.remove(&gone);
    assert_eq!(line.pass(packet), verdict, "{what}");
    assert_eq!(line.seen.port(), line.client.port(), "{what}");
    let counts = [Table::Assured, Table::Unassured].map(|table| line.rig.tables.count(table));
    match after {
        Some(state) => {
            assert_eq!(line.state(), Some(place(state)), "{what}");
            assert_eq!(counts[0] + counts[1], 2, "{what}");
            let (_, restored) = line.rig.tables.find(&gone).unwrap();
            assert_eq!(without_life(restored), without_life(before), "{what}");
        }
        None => assert_eq!(counts, [0, 1], "{what}"),
    }
    if after == Some(Refused) {
        return;
    }
    // Whatever it was, the client asks on and gets its connection.
    let more: &[Packet] = match protocol {
        Tcp => &[(ASKS, SYN), (ANSWERS, SYN | ACK), (ASKS, ACK)],
        Udp => &[(ASKS, 0), (ANSWERS, 0)],
    };
    line.exchange(more);
    assert_eq!(line.state(), Some(place(Open)), "{what}");
}

fn without_life(connection: Connection) -> Connection {
    Connection {
        life: 0,
        hop: Hop::default(),
        ..connection
    }
}

/// Another client has the backend's half meanwhile: it keeps it, and who comes
/// late gets a port of its own.
#[test]
fn a_half_that_has_gone_to_another_is_not_taken_back() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in [&THROUGH, &THROUGH_TC] {
        for (family, protocol) in kinds() {
            for state in [Opening, Open] {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.what += &format!(", the other is {state:?}");
                check_taken(&mut line, state);
            }
        }
    }
}

fn check_taken(line: &mut Line<'_>, state: State) {
    let what = line.what.clone();
    line.reach(Opening);
    let (first, reply_key) = (line.client, line.reply_key());
    line.rig.tables.remove(&reply_key);
    line.client = socket(CLIENT1, line.family, first.port());
    line.reach(state);
    let second = (line.client, line.seen);
    assert_eq!(line.reply_key(), reply_key, "{what}");

    line.client = first;
    if line.protocol == Tcp {
        assert_eq!(line.ask(ACK), Verdict::Stray, "{what}");
    }
    assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
    assert_ne!(line.seen, second.1, "{what}");
    line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK)]);
    assert_eq!(line.state(), Some(place(Open)), "{what}");
    (line.client, line.seen) = second;
    line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK), (ANSWERS, ACK)]);
    assert_eq!(line.seen, second.1, "{what}");
}
