//! The demo: the example manifests brought to life in a lab.

mod cluster;
mod controller;
mod manifests;
mod paths;
mod status;
mod table;

pub use cluster::{Cluster, ClusterOptions};
pub use controller::Controller;
pub use manifests::{Deployment, Folder, OutsideEndpoint, Port, Workloads};
pub use paths::{Path, Row, Target, targets};
pub use status::{Backend, Frontend, Interface, Service, ServicePort, Status};
pub use table::{connections, frontends, rows, table};
