//! Which Services there are, and what their fields say.

use std::net::{IpAddr, Ipv4Addr};

use lb_agent::model::{ObjectName, Protocol};
use serde_json::Value;

#[derive(Clone, Copy)]
pub(crate) struct Service<'a> {
    pub(crate) name: &'a ObjectName,
    pub(crate) manifest: &'a Value,
}

#[derive(Clone, Copy)]
pub(crate) struct ServicePort<'a>(&'a Value);

impl<'a> Service<'a> {
    /// The clusterIP of a family, if the Service is proxied in it.
    pub(crate) fn cluster_ip(self, is_v4: bool) -> Option<IpAddr> {
        let labels = &self.manifest["metadata"]["labels"];
        if labels
            .get("service.kubernetes.io/service-proxy-name")
            .is_some()
        {
            return None;
        }
        let spec = self.spec();
        if spec["type"] == "ExternalName" {
            return None;
        }
        let first = spec["clusterIP"].as_str().unwrap_or_default();
        if first.is_empty() || first == "None" {
            return None;
        }
        let families = list(&spec["ipFamilies"]);
        if families.is_empty() {
            return parse_ip(first).filter(|ip| ip.is_ipv4() == is_v4);
        }
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        let index = families.iter().position(|name| name == family)?;
        parse_ip(spec["clusterIPs"][index].as_str()?)
    }

    pub(crate) fn ports(self) -> impl Iterator<Item = ServicePort<'a>> {
        list(&self.spec()["ports"]).iter().map(ServicePort)
    }

    pub(crate) fn external_ips(self) -> Vec<IpAddr> {
        let texts = list(&self.spec()["externalIPs"]).iter();
        texts.filter_map(|text| parse_ip(text.as_str()?)).collect()
    }

    pub(crate) fn load_balancer_ips(self) -> Vec<IpAddr> {
        let ingress = list(&self.manifest["status"]["loadBalancer"]["ingress"]).iter();
        let vips = ingress.filter(|item| item["ipMode"].is_null() || item["ipMode"] == "VIP");
        vips.filter_map(|item| parse_ip(item["ip"].as_str()?))
            .collect()
    }

    pub(crate) fn source_ranges(self) -> impl Iterator<Item = &'a str> {
        let ranges = list(&self.spec()["loadBalancerSourceRanges"]).iter();
        ranges.filter_map(Value::as_str).map(str::trim)
    }

    pub(crate) fn is_local(self, policy: &str) -> bool {
        self.spec()[policy] == "Local"
    }

    pub(crate) fn may_be_called_from_outside(self) -> bool {
        match self.spec()["type"].as_str() {
            Some("LoadBalancer" | "NodePort") => true,
            _ => !self.external_ips().is_empty(),
        }
    }

    pub(crate) fn affinity_seconds(self) -> u32 {
        if self.spec()["sessionAffinity"] != "ClientIP" {
            return 0;
        }
        let seconds = &self.spec()["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        seconds
            .as_u64()
            .map_or(10800, |seconds| seconds.try_into().unwrap())
    }

    fn spec(self) -> &'a Value {
        &self.manifest["spec"]
    }
}

impl ServicePort<'_> {
    pub(crate) fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        protocol(&self.0["protocol"])
    }

    pub(crate) fn number(&self) -> u16 {
        number(&self.0["port"])
    }

    pub(crate) fn node_port(&self) -> Option<u16> {
        Some(number(&self.0["nodePort"])).filter(|number| *number != 0)
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn protocol(value: &Value) -> Protocol {
    match value.as_str() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => panic!("protocol {other}"),
    }
}

/// 0 if there is none.
pub(crate) fn number(value: &Value) -> u16 {
    value.as_u64().unwrap_or(0).try_into().unwrap()
}

/// IPv4 octets with leading zeros are decimal.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let octets: Result<Vec<u8>, _> = text.split('.').map(str::parse).collect();
    let octets: [u8; 4] = octets.ok()?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}
