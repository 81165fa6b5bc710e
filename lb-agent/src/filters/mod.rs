//! What filters or rewrites forwarded traffic in this network namespace beside
//! the dataplane.

mod ebtables;
mod iptables;
mod nftables;
mod watch;
mod xfrm;

use std::fmt;

pub use self::watch::watch;
use crate::model::Family;

/// One reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub found: Vec<Filter>,
    /// Why there may be more.
    pub error: Option<String>,
}

/// What has, or may have, a say in forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// A base chain, those of iptables-nft included.
    Nftables {
        /// As nft(8) writes it.
        family: &'static str,
        table: String,
        chain: String,
        hook: &'static str,
    },
    /// A built-in chain of iptables-legacy.
    Iptables {
        family: Family,
        table: String,
        chain: &'static str,
    },
    /// A table of ebtables-legacy.
    Ebtables { table: &'static str },
    /// Policies of IPsec.
    Xfrm,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables {
                family,
                table,
                chain,
                hook,
            } => write!(f, "nftables {family} {table} {chain} at {hook}"),
            Self::Iptables {
                family,
                table,
                chain,
            } => {
                let program = match family {
                    Family::V4 => "iptables-legacy",
                    Family::V6 => "ip6tables-legacy",
                };
                write!(f, "{program} {table} {chain}")
            }
            Self::Ebtables { table } => write!(f, "ebtables-legacy {table}"),
            Self::Xfrm => f.write_str("an xfrm policy (IPsec)"),
        }
    }
}
