//! Where a frame meets a program, and what the program returns.

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use lb_agent::dataplane::Dataplane;
use lb_common::Hook;

/// What the programs return.
pub mod action {
    pub const XDP_DROP: i32 = 1;
    pub const XDP_PASS: i32 = 2;
    pub const XDP_TX: i32 = 3;
    pub const XDP_REDIRECT: i32 = 4;
    pub const TC_PASS: i32 = -1;
    pub const TC_DROP: i32 = 2;
    pub const TC_REDIRECT: i32 = 7;
}

/// Where a frame is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub hook: Hook,
    pub interface: &'static str,
    /// Where the packet came in before, at TC egress.
    pub origin: Option<&'static str>,
}

#[must_use]
pub const fn at(hook: Hook, interface: &'static str) -> Place {
    Place {
        hook,
        interface,
        origin: None,
    }
}

/// The program's return code, and the frame as it left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub action: i32,
    pub bytes: Vec<u8>,
}

/// The head of struct xdp_md, or of struct __sk_buff (linux/bpf.h), for a frame
/// of `length` bytes. `index` tells an interface's number by its name.
#[must_use]
pub fn context(place: Place, index: impl Fn(&str) -> u32, length: u32) -> Vec<u8> {
    let interface = index(place.interface);
    let origin = place.origin.map_or(0, &index);
    let words: &[u32] = match place.hook {
        Hook::Xdp => &[0, length, 0, interface, 0, 0],
        Hook::TcIngress => &[0, 0, 0, 0, 0, 0, 0, 0, 0, interface, interface, 0],
        Hook::TcEgress => &[0, 0, 0, 0, 0, 0, 0, 0, 0, origin, interface, 0],
    };
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Runs the hook's program on a frame. To be called inside the namespace that
/// the place is in, where `index` tells an interface's number by its name.
///
/// # Errors
/// The kernel refuses the frame, or there is no such program.
pub fn test_run(
    dataplane: &mut Dataplane,
    place: Place,
    index: impl Fn(&str) -> u32,
    frame: &[u8],
) -> Result<Returned> {
    let context = context(place, index, u32::try_from(frame.len())?);
    let mut bytes = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut bytes),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let (name, is_xdp) = match place.hook {
        Hook::Xdp => ("lb_xdp", true),
        Hook::TcIngress => ("lb_ingress", false),
        Hook::TcEgress => ("lb_egress", false),
    };
    let program = dataplane.ebpf_mut().program_mut(name).context(name)?;
    let result = if is_xdp {
        let program: &mut Xdp = program.try_into()?;
        program.test_run(options)
    } else {
        let program: &mut SchedClassifier = program.try_into()?;
        program.test_run(options)
    };
    let result = result.with_context(|| format!("{place:?} {frame:02x?}"))?;
    bytes.truncate(result.data_size_out as usize);
    Ok(Returned {
        action: result.return_value.cast_signed(),
        bytes,
    })
}
