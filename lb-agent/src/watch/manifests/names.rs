//! Names as the API server checks them (RFC 1123 and RFC 6335).

pub(super) const LABEL: &str =
    "a DNS label: at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
pub(super) const SUBDOMAIN: &str = "a DNS name: at most 253 of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit";
pub(super) const PORT_NAME: &str = "a port name: at most 15 of a-z, 0-9 and single '-', with a letter, beginning and ending with a letter or digit";
pub(super) const LABEL_VALUE: &str = "a label value: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit";

pub(super) fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

pub(super) fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

pub(super) fn is_label_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= 63
            && text.chars().all(inner)
            && text.starts_with(end)
            && text.ends_with(end)
}

fn is_label_of_any_length(text: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.chars().all(|c| end(c) || c == '-') && text.starts_with(end) && text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        fn check(text: &str, label: bool, subdomain: bool, port: bool, value: bool) {
            let found = (
                is_label(text),
                is_subdomain(text),
                is_port_name(text),
                is_label_value(text),
            );
            assert_eq!(found, (label, subdomain, port, value), "{text:?}");
        }
        check("kiada", true, true, true, true);
        check("k-8-s", true, true, true, true);
        check("9p", true, true, true, true);
        check("80", true, true, false, true);
        check("a--b", true, true, false, true);
        check("a.b", false, true, false, true);
        check("a..b", false, false, false, true);
        check("", false, false, false, true);
        check("-a", false, false, false, false);
        check("a-", false, false, false, false);
        check("Kiada", false, false, false, true);
        check("my_app", false, false, false, true);
        check("a b", false, false, false, false);
        check("longer-than-fifteen", true, true, false, true);
        check(&"a".repeat(63), true, true, false, true);
        check(&"a".repeat(64), false, true, false, false);
        check(&"a".repeat(254), false, false, false, false);
    }
}
