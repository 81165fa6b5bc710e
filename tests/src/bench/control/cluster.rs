//! A made-up cluster of equal Services, as a real API server would show it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use lb_agent::{model::Change, watch};
use serde::Serialize;
use serde_json::{Value, json};

pub(super) const PORT: u16 = 80;
pub(super) const TARGET_PORT: u16 = 8080;

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Scale {
    pub(super) services: u32,
    /// Of each Service.
    pub(super) endpoints: u32,
}

impl Scale {
    /// What the project is measured at.
    pub(super) const ALL: [Self; 5] = [
        Self::new(10, 3),
        Self::new(1_000, 3),
        Self::new(5_000, 50),
        Self::new(10_000, 3),
        Self::new(50_000, 3),
    ];

    #[must_use]
    pub(super) const fn new(services: u32, endpoints: u32) -> Self {
        Self {
            services,
            endpoints,
        }
    }
}

/// Counted from 0; each has one TCP port.
pub(super) fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + service)
}

/// An endpoint that comes in the place of the first one with change `number`.
pub(super) fn replacement(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + number)
}

impl Scale {
    pub(super) fn endpoint(self, service: u32, number: u32) -> Ipv4Addr {
        let first = Ipv4Addr::new(10, 128, 0, 1).to_bits();
        Ipv4Addr::from_bits(first + service * self.endpoints + number)
    }

    /// Everything, as the agent's store is told of it.
    pub(super) fn changes(self) -> Result<Vec<Change>> {
        let services = (0..self.services).map(service);
        let slices = (0..self.services).map(|number| self.slice(number, None));
        services
            .chain(slices)
            .map(|object| change(&object))
            .collect()
    }

    /// The slice of a Service; with another first endpoint, if one is given.
    pub(super) fn slice(self, service: u32, first: Option<Ipv4Addr>) -> Value {
        let own = (0..self.endpoints).map(|number| self.endpoint(service, number));
        let skipped = usize::from(first.is_some());
        let addresses = first.into_iter().chain(own.skip(skipped));
        let endpoints: Vec<Value> = addresses.map(endpoint).collect();
        let name = name(service);
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-x7k2p"),
                "generateName": format!("{name}-"),
                "namespace": NAMESPACE,
                "uid": uid(service),
                "generation": 4,
                "creationTimestamp": CREATED,
                "labels": {
                    "app": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "kubernetes.io/service-name": name,
                },
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": CREATED},
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": name, "uid": uid(service),
                    "controller": true, "blockOwnerDeletion": true,
                }],
                "managedFields": [{
                    "manager": "kube-controller-manager", "operation": "Update",
                    "apiVersion": "discovery.k8s.io/v1", "time": CREATED, "fieldsType": "FieldsV1",
                    "fieldsV1": {
                        "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                        "f:metadata": {
                            "f:annotations": {
                                ".": {},
                                "f:endpoints.kubernetes.io/last-change-trigger-time": {},
                            },
                            "f:generateName": {},
                            "f:labels": {
                                ".": {}, "f:app": {},
                                "f:endpointslice.kubernetes.io/managed-by": {},
                                "f:kubernetes.io/service-name": {},
                            },
                            "f:ownerReferences": {
                                ".": {}, format!("k:{{\"uid\":\"{}\"}}", uid(service)): {},
                            },
                        },
                    },
                }],
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
            "endpoints": endpoints,
        })
    }
}

const NAMESPACE: &str = "default";
const CREATED: &str = "2026-01-02T03:04:05Z";

pub(super) fn name(service: u32) -> String {
    format!("service-{service:05}")
}

pub(super) fn service(service: u32) -> Value {
    let (name, address) = (name(service), cluster_ip(service));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid(service),
            "creationTimestamp": CREATED,
            "labels": {"app": name},
            "managedFields": [{
                "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1",
                "time": CREATED, "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:internalTrafficPolicy": {},
                        "f:ports": {
                            ".": {},
                            "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
                            },
                        },
                        "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                    },
                },
            }],
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}],
        },
        "status": {"loadBalancer": {}},
    })
}

pub(super) fn node(name: &str, addresses: &[String]) -> Value {
    let addresses = addresses.iter();
    let addresses: Vec<Value> = addresses
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({"metadata": {"name": name}, "status": {"addresses": addresses}})
}

/// What the agent's source would send.
pub(super) fn change(object: &Value) -> Result<Change> {
    let (change, problems) = watch::object(object);
    change.with_context(|| format!("{problems:?}"))
}

fn endpoint(address: Ipv4Addr) -> Value {
    let pod = format!("pod-{:08x}", address.to_bits());
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "node2",
        "zone": "zone-a",
        "targetRef": {
            "kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": uid(address.to_bits()),
        },
    })
}

fn uid(number: u32) -> String {
    format!("5d1b2c3e-0000-4000-8000-{number:012x}")
}
