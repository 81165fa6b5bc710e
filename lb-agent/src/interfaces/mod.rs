use std::net::IpAddr;
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<IpAddr>,
    pub up: bool,
    pub veth: bool,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Uplink,
    Pod,
    Local,
}
