use super::*;

/// The objects of `text` that can be used, and its problems without the path.
fn check(text: &str, objects: &[&str], problems: &[&str]) {
    let parsed = parse(Path::new("a.yaml"), text.as_bytes());
    let found: Vec<String> = parsed.objects.keys().map(Key::to_string).collect();
    let lines: Vec<String> = parsed.problems.iter().map(Problem::to_string).collect();
    let expect: Vec<String> = problems
        .iter()
        .map(|line| format!("a.yaml, {line}"))
        .collect();
    assert_eq!(
        (found, lines),
        (objects.iter().map(|o| (*o).to_owned()).collect(), expect),
        "{text}"
    );
}

/// One bad field of an otherwise good object, and the line that it yields.
fn check_field(object: &str, fields: &str, problem: &str) {
    let (kind, version) = match object.split(' ').next() {
        Some("EndpointSlice") => ("EndpointSlice", "discovery.k8s.io/v1"),
        kind => (kind.unwrap(), "v1"),
    };
    let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: x}}, {fields}}}");
    if problem.is_empty() {
        check(&text, &[object], &[]);
    } else {
        check(&text, &[], &[&format!("document 1: {object}: {problem}")]);
    }
}

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn documents_and_kinds() {
    let web = "Service default/web";
    check(SERVICE, &[web], &[]);
    check("", &[], &[]);
    check(
        &format!("kind: Deployment\napiVersion: apps/v1\n---\n{SERVICE}"),
        &[web],
        &[],
    );
    check(
        &format!("kind: Service\napiVersion: serving.knative.dev/v1\n---\n{SERVICE}"),
        &[web],
        &[],
    );
    check(
        &format!("metadata: {{}}\n---\n{SERVICE}"),
        &[web],
        &["document 1: apiVersion: found nothing, accepted: an API version such as v1"],
    );
    check(
        "apiVersion: v1\nspec: {}",
        &[],
        &["document 1: kind: found nothing, accepted: a kind such as Service"],
    );
    check(
        "- 1",
        &[],
        &["document 1: found [1], accepted: an object with apiVersion and kind"],
    );
    check(
        &SERVICE.replace("v1", "v2"),
        &[],
        &["document 1: Service default/web: apiVersion: found \"v2\", accepted: v1"],
    );
    check(
        &SERVICE.replace("v1", "apps/v1"),
        &[],
        &["document 1: Service default/web: apiVersion: found \"apps/v1\", accepted: v1"],
    );
    check(
        &format!("{SERVICE}---\n{SERVICE}"),
        &[web],
        &[
            "document 2: Service default/web: metadata.name: found the same object as in a.yaml, document 1, accepted: one document for each object",
        ],
    );
    check(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a, namespace: ns}, spec: {ports: [{port: 1}]}}\n- {kind: Pod, apiVersion: v1, metadata: {name: p}}\n",
        &["Service ns/a", "Pod default/p"],
        &[],
    );
    check(
        "apiVersion: v1\nkind: ServiceList\nitems:\n- {metadata: {name: a}, spec: {ports: [{port: 1}]}}\n",
        &["Service default/a"],
        &[],
    );
    check(
        "apiVersion: v1\nkind: Node\nmetadata: {name: node.example.org}\n",
        &["Node node.example.org"],
        &[],
    );
    check(
        &format!("a: [\n---\n{SERVICE}"),
        &[web],
        &["document 1: line 1: found unclosed bracket '[', accepted: a document that is whole"],
    );
}

#[test]
fn names_of_objects() {
    for name in ["My_Service", "a.b", "-a", "a b"] {
        check(
            &SERVICE.replace("web", &format!("{name:?}")),
            &[],
            &[&format!(
                "document 1: Service: metadata.name: found {name:?}, accepted: {}",
                names::LABEL
            )],
        );
    }
    check(
        &SERVICE.replace("{name: web}", "{name: 7}"),
        &[],
        &[&format!(
            "document 1: Service: metadata.name: found 7, accepted: {}",
            names::LABEL
        )],
    );
    check(
        &SERVICE.replace("{name: web}", "{name: web, namespace: A}"),
        &[],
        &[&format!(
            "document 1: Service: metadata.namespace: found \"A\", accepted: {}",
            names::LABEL
        )],
    );
    check(
        "apiVersion: v1\nkind: Service\n",
        &[],
        &[&format!(
            "document 1: Service: metadata.name: found nothing, accepted: {}",
            names::LABEL
        )],
    );
}

#[test]
fn fields_of_services() {
    let spec = |fields: &str, problem: &str| {
        check_field("Service default/x", &format!("spec: {{{fields}}}"), problem);
    };
    let good = "ports: [{port: 80}]";
    spec(good, "");
    spec(
        &format!("type: clusterIP, {good}"),
        "spec.type: found \"clusterIP\", accepted: ClusterIP, NodePort, LoadBalancer or ExternalName",
    );
    spec(
        "ports: [{port: 70000}]",
        "spec.ports[0].port: found 70000, accepted: a port from 1 to 65535",
    );
    spec(
        "ports: [{name: a}]",
        "spec.ports[0].port: found 0, accepted: a port from 1 to 65535",
    );
    spec(
        "ports: [{port: \"80\"}]",
        "spec.ports[0].port: found string \"80\", accepted: a whole number",
    );
    spec(
        "ports: {port: 80}",
        "spec.ports: found map, accepted: a sequence",
    );
    spec("", "spec.ports: found nothing, accepted: at least one port");
    spec("clusterIP: None", "");
    spec("type: ExternalName, externalName: example.org", "");
    spec(
        "type: ExternalName",
        &format!(
            "spec.externalName: found \"\", accepted: {}",
            names::SUBDOMAIN
        ),
    );
    spec(
        "ports: [{port: 80, protocol: tcp}]",
        "spec.ports[0].protocol: found \"tcp\", accepted: TCP, UDP or SCTP",
    );
    spec(
        "ports: [{port: 80, nodePort: 80}]",
        "spec.ports[0].nodePort: found 80, accepted: a port from 30000 to 32767",
    );
    spec("ports: [{port: 80, nodePort: 30008}]", "");
    spec("ports: [{port: 80, targetPort: http}]", "");
    spec(
        "ports: [{port: 80, targetPort: 70000}]",
        "spec.ports[0].targetPort: found 70000, accepted: a port from 1 to 65535",
    );
    spec(
        "ports: [{port: 80, targetPort: Http}]",
        &format!(
            "spec.ports[0].targetPort: found \"Http\", accepted: a port from 1 to 65535, or {}",
            names::PORT_NAME
        ),
    );
    spec(
        "ports: [{port: 1, name: a}, {port: 2}]",
        "spec.ports[1].name: found nothing, accepted: a name, as there are several ports",
    );
    spec(
        "ports: [{port: 1, name: a}, {port: 2, name: a}]",
        "spec.ports[1].name: found \"a\" again, accepted: each name once",
    );
    spec(
        "ports: [{port: 1, name: a}, {port: 1, name: b}]",
        "spec.ports[1].port: found 1 TCP again, accepted: each port and protocol once",
    );
    spec(
        "ports: [{port: 53, name: a}, {port: 53, name: b, protocol: UDP}]",
        "",
    );
    spec(
        "ports: [{port: 1, name: a, nodePort: 30001}, {port: 2, name: b, nodePort: 30001}]",
        "spec.ports[1].nodePort: found 30001 TCP again, accepted: each nodePort and protocol once",
    );
    spec(
        &format!("selector: {{app: \"a b\"}}, {good}"),
        &format!(
            "spec.selector.app: found \"a b\", accepted: {}",
            names::LABEL_VALUE
        ),
    );
    spec(
        &format!("selector: {{app: 7}}, {good}"),
        "spec.selector.app: found integer `7`, accepted: a string (in quotes)",
    );
    spec(
        &format!("sessionAffinity: clientIP, {good}"),
        "spec.sessionAffinity: found \"clientIP\", accepted: None or ClientIP",
    );
    spec(
        &format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 86401}}}}, {good}"),
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: found 86401, accepted: seconds from 1 to 86400",
    );
    spec(
        &format!("externalTrafficPolicy: local, {good}"),
        "spec.externalTrafficPolicy: found \"local\", accepted: Cluster or Local",
    );
    spec(
        &format!("internalTrafficPolicy: All, {good}"),
        "spec.internalTrafficPolicy: found \"All\", accepted: Cluster or Local",
    );
    spec(
        &format!("healthCheckNodePort: -1, {good}"),
        "spec.healthCheckNodePort: found -1, accepted: a port from 1 to 65535",
    );
    spec(
        &format!("clusterIP: 10.96.0.300, {good}"),
        "spec.clusterIP: found \"10.96.0.300\", accepted: an IP address, or None",
    );
    spec(
        &format!("clusterIP: 10.96.0.3, clusterIPs: [10.96.0.4], {good}"),
        "spec.clusterIPs[0]: found \"10.96.0.4\", accepted: \"10.96.0.3\", as spec.clusterIP has it",
    );
    spec(
        &format!("clusterIPs: [10.96.0.4, 10.96.0.5], {good}"),
        "spec.clusterIPs[1]: found \"10.96.0.5\", accepted: one address of each family",
    );
    spec(
        &format!("clusterIP: 10.96.0.4, ipFamilies: [IPv6], {good}"),
        "spec.clusterIP: found \"10.96.0.4\", accepted: an address of spec.ipFamilies[0]",
    );
    spec(
        &format!("ipFamilies: [ipv4], {good}"),
        "spec.ipFamilies[0]: found \"ipv4\", accepted: IPv4 or IPv6",
    );
    spec(
        &format!("ipFamilies: [IPv4, IPv4], {good}"),
        "spec.ipFamilies[1]: found \"IPv4\" again, accepted: each family once",
    );
    spec(
        &format!("ipFamilyPolicy: DualStack, {good}"),
        "spec.ipFamilyPolicy: found \"DualStack\", accepted: SingleStack, PreferDualStack or RequireDualStack",
    );
}

#[test]
fn fields_of_the_others() {
    let slice = "EndpointSlice default/x";
    check_field(slice, "addressType: IPv4", "");
    check_field(
        slice,
        "endpoints: []",
        "addressType: found \"\", accepted: IPv4, IPv6 or FQDN",
    );
    check_field(
        slice,
        "addressType: FQDN, endpoints: [{addresses: [example.org]}]",
        "",
    );
    check_field(
        slice,
        "addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}, {addresses: ['fd00::1']}]",
        "endpoints[1].addresses[0]: found \"fd00::1\", accepted: an IPv4 address",
    );
    check_field(
        slice,
        "addressType: IPv4, endpoints: [{}]",
        "endpoints[0].addresses: found nothing, accepted: at least one address",
    );
    check_field(
        slice,
        "addressType: IPv4, ports: [{port: 65536}]",
        "ports[0].port: found 65536, accepted: a port from 1 to 65535",
    );
    let endpoints = "Endpoints default/x";
    check_field(
        endpoints,
        "subsets: [{addresses: [{ip: 10.1.0.1}], ports: [{port: 80}]}]",
        "",
    );
    check_field(
        endpoints,
        "subsets: [{addresses: [{ip: x}]}]",
        "subsets[0].addresses[0].ip: found \"x\", accepted: an IP address",
    );
    check_field(
        endpoints,
        "subsets: [{ports: [{port: 0}]}]",
        "subsets[0].ports[0].port: found 0, accepted: a port from 1 to 65535",
    );
    let pod = "Pod default/x";
    check_field(
        pod,
        "spec: {containers: [{name: c, ports: [{containerPort: 80, name: http}]}]}",
        "",
    );
    check_field(
        pod,
        "spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}",
        "spec.containers[0].ports[0].containerPort: found 0, accepted: a port from 1 to 65535",
    );
    check_field(
        pod,
        "status: {podIPs: [{ip: nowhere}]}",
        "status.podIPs[0].ip: found \"nowhere\", accepted: an IP address",
    );
}

#[test]
fn files_that_are_no_manifests() {
    for (bytes, expect) in [
        (
            &[0u8; 4096][..],
            "a.yaml: found a zero byte at offset 0, accepted: UTF-8 text, YAML or JSON",
        ),
        (
            &[b'a', 0xff][..],
            "a.yaml: found invalid utf-8 sequence of 1 bytes from index 1, accepted: UTF-8 text, YAML or JSON",
        ),
    ] {
        let parsed = parse(Path::new("a.yaml"), bytes);
        let lines: Vec<String> = parsed.problems.iter().map(Problem::to_string).collect();
        assert_eq!((lines, parsed.unknown), (vec![expect.to_owned()], true));
    }
}
