//! An agent that is told other sizes has other tables, and the connections that
//! were in the old ones.

use aya::maps::MapInfo;
use lb_common::Holdings;
use lb_tests::{
    lab::{Family, TcpClient},
    packet::Table,
};

use super::{
    PATIENCE,
    kernel::{hash, map_path},
    site::{Site, cluster_ip},
};

const CLIENTS: usize = 6;

#[test]
fn connections_outlive_a_change_of_size() {
    let size = |connections: &'static str| ["--max-connections", connections];
    let mut site = Site::new(&size("2000"));
    let pins = site.lab.pins(1);
    let shell = site.lab.pod("shell").unwrap();
    let connect = |number| {
        let family = Family::ALL[number % 2];
        let connect = || TcpClient::connect(cluster_ip(family, 10), None, PATIENCE);
        let mut client = shell.netns.run(connect).unwrap();
        let first = client.exchange(b"before").unwrap();
        (client, first.server)
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(connect).collect();
    let held = || -> u64 {
        let holdings = hash::<u32, Holdings>(&pins, "HOLDINGS");
        let records = holdings.iter().map(Result::unwrap);
        records.map(|(_, record)| record.connections).sum()
    };
    let elements = || Table::assured(&pins).unwrap().keys().unwrap().len();
    assert_eq!((held(), elements()), (CLIENTS as u64, 2 * CLIENTS));

    let folder = site.manifests.display().to_string();
    for (connections, max_entries) in [("3000", 6000), ("1024", 2048), ("1024", 2048)] {
        site.agent.stop().unwrap();
        // Over programs that work on the old tables.
        for (client, server) in &mut clients {
            assert_eq!(client.exchange(b"stopped").unwrap().server, *server);
        }
        let arguments = [&["--manifests", &folder], &size(connections)[..]].concat();
        site.agent = site.lab.start_agent(1, &arguments).unwrap();
        site.agent.wait_ready().unwrap();
        let info = MapInfo::from_pin(map_path(&pins, "ASSURED")).unwrap();
        assert_eq!(info.max_entries(), max_entries);
        for (client, server) in &mut clients {
            let reply = client.exchange(connections.as_bytes()).unwrap();
            assert_eq!(reply.server, *server, "{connections}");
        }
        assert_eq!((held(), elements()), (CLIENTS as u64, 2 * CLIENTS));
    }
}
