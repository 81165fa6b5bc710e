//! Programs on interfaces: links that are pinned, replaced in place, and
//! removed when their interface is no longer ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
            qdisc_detach_program,
        },
        xdp::XdpLink,
    },
    util::KernelVersion,
};
use clap::ValueEnum;
use serde::Serialize;
use thiserror::Error;

use super::{
    DataplaneError, bpffs,
    load::{EGRESS, INGRESS, XDP, program},
};
use crate::interfaces::{Device, FILTER_PRIORITY as PRIORITY, Interface, Kind};

const LOOPBACK: u32 = 1;

const HANDLE: TcHandle = TcHandle::new(0, 1);

/// `--xdp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpModeOption {
    /// Native where the driver can, else none: TC does it all. None on a
    /// veth either: frames sent back are lost when its other end has neither
    /// XDP nor GRO, and TSO is off on that end.
    Auto,
    Native,
    Off,
}

/// `--tc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TcModeOption {
    /// TCX links from Linux 6.6 on, else a clsact qdisc.
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    Native,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    Tcx,
    Clsact,
}

/// An interface with programs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    pub name: String,
    pub index: u32,
    pub kind: Kind,
    pub xdp: XdpMode,
    pub tc: TcMode,
    /// Shortcuts lead to its other end.
    pub peer: bool,
}

/// An interface that could not be brought under control.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("interface {interface}: {reason}")]
pub struct AttachmentError {
    pub interface: String,
    pub reason: String,
}

pub(super) struct Attachments {
    pins: PathBuf,
    xdp: XdpModeOption,
    tc: TcMode,
    attached: BTreeMap<u32, Attached>,
}

impl Attachments {
    pub(super) fn new(pins: &Path, xdp: XdpModeOption, tc: TcModeOption) -> Self {
        let tc = match tc {
            TcModeOption::Tcx => TcMode::Tcx,
            TcModeOption::Clsact => TcMode::Clsact,
            TcModeOption::Auto => {
                if KernelVersion::current()
                    .is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
                {
                    TcMode::Tcx
                } else {
                    TcMode::Clsact
                }
            }
        };
        Self {
            pins: bpffs::links(pins),
            xdp,
            tc,
            attached: BTreeMap::new(),
        }
    }

    /// Those in `peers` are said to be reached by shortcuts.
    pub(super) fn list(&self, peers: &BTreeSet<u32>) -> Vec<Attached> {
        let mut list: Vec<Attached> = self.attached.values().cloned().collect();
        for attached in &mut list {
            attached.peer = peers.contains(&attached.index);
        }
        list
    }

    /// Whether an attempt will be made to run XDP here.
    pub(super) fn may_run_xdp(&self, interface: &Interface) -> bool {
        interface.kind == Kind::Uplink && !self.xdp_modes(interface).is_empty()
    }

    pub(super) fn runs_xdp(&self, interface: &Interface) -> bool {
        let attached = self.attached.get(&interface.index);
        attached.is_some_and(|attached| attached.xdp != XdpMode::Off)
    }

    pub(super) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        interfaces: &[Interface],
    ) -> Vec<AttachmentError> {
        let mut errors = Vec::new();
        let mut wanted = BTreeSet::new();
        let first = self.attached.is_empty();
        if self.tc == TcMode::Clsact {
            self.unpin_tcx(&mut errors);
        }
        for interface in interfaces {
            match self.attach(ebpf, interface, &mut wanted) {
                Ok(attached) => {
                    self.attached.insert(interface.index, attached);
                }
                Err(reason) => errors.push(AttachmentError {
                    interface: interface.name.clone(),
                    reason,
                }),
            }
        }
        let filtered = |name: &str| {
            let ours = interfaces.iter().any(|interface| interface.name == name);
            self.tc == TcMode::Clsact && ours
        };
        if self.tc == TcMode::Clsact || first {
            detach_clsact(filtered);
        }
        self.attached
            .retain(|index, _| interfaces.iter().any(|interface| interface.index == *index));
        self.unpin(|name| !wanted.contains(name), &mut errors);
        errors
    }

    /// Before filters take over: two programs would translate twice.
    fn unpin_tcx(&self, errors: &mut Vec<AttachmentError>) {
        self.unpin(
            |name| name.ends_with(INGRESS) || name.ends_with(EGRESS),
            errors,
        );
    }

    fn unpin(&self, which: impl Fn(&str) -> bool, errors: &mut Vec<AttachmentError>) {
        for path in bpffs::files(&self.pins) {
            let name = path.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(&which) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                errors.push(AttachmentError {
                    interface: path.display().to_string(),
                    reason: format!("link not unpinned: {error}"),
                });
            }
        }
    }

    /// Attaches what the interface's kind asks for; adds the names of its pins
    /// to `wanted`, also of those that fail, so that nothing that works is
    /// removed.
    fn attach(
        &self,
        ebpf: &mut Ebpf,
        interface: &Interface,
        wanted: &mut BTreeSet<String>,
    ) -> Result<Attached, String> {
        let done = self.attached.get(&interface.index);
        let done = done.filter(|done| done.name == interface.name && done.kind == interface.kind);
        let mut hooks = vec![(EGRESS, TcAttachType::Egress)];
        if interface.index != LOOPBACK {
            hooks.push((INGRESS, TcAttachType::Ingress));
        }
        if self.tc == TcMode::Tcx {
            wanted.extend(
                hooks
                    .iter()
                    .map(|(name, _)| pin_name(interface.index, name)),
            );
        }
        if let Some(done) = done {
            if done.xdp != XdpMode::Off {
                wanted.insert(xdp_pin_name(interface.index, done.xdp));
            }
            return Ok(done.clone());
        }
        for (name, direction) in hooks {
            let result = match self.tc {
                TcMode::Tcx => self.attach_tcx(ebpf, interface, name, direction),
                TcMode::Clsact => attach_clsact(ebpf, interface, name, direction),
            };
            result.map_err(|error| format!("{name}: {error}"))?;
        }
        let xdp = if interface.kind == Kind::Uplink {
            self.attach_xdp(ebpf, interface, wanted)?
        } else {
            XdpMode::Off
        };
        tracing::info!(interface = %interface.name, kind = ?interface.kind, ?xdp, tc = ?self.tc, "attached");
        Ok(Attached {
            name: interface.name.clone(),
            index: interface.index,
            kind: interface.kind,
            xdp,
            tc: self.tc,
            peer: false,
        })
    }

    fn attach_tcx(
        &self,
        ebpf: &mut Ebpf,
        interface: &Interface,
        name: &'static str,
        direction: TcAttachType,
    ) -> Result<(), Failure> {
        let classifier: &mut SchedClassifier = program(ebpf, name)?;
        let path = self.pins.join(pin_name(interface.index, name));
        if let Some(link) = pinned(&path)? {
            let link = SchedClassifierLink::try_from(link)?;
            match classifier.attach_to_link(link) {
                Ok(id) => {
                    drop(classifier.take_link(id)?);
                    return Ok(());
                }
                Err(error) => discard(&path, &error)?,
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier.attach_with_options(&interface.name, direction, options)?;
        let link: FdLink = classifier.take_link(id)?.try_into()?;
        link.pin(&path)?;
        Ok(())
    }

    fn attach_xdp(
        &self,
        ebpf: &mut Ebpf,
        interface: &Interface,
        wanted: &mut BTreeSet<String>,
    ) -> Result<XdpMode, String> {
        for &mode in self.xdp_modes(interface) {
            let pin = xdp_pin_name(interface.index, mode);
            match self.attach_xdp_mode(ebpf, interface, &pin) {
                Ok(()) => {
                    wanted.insert(pin);
                    return Ok(mode);
                }
                Err(error) if self.xdp == XdpModeOption::Auto => {
                    tracing::info!(interface = %interface.name, %error, "no native XDP, TC does it all");
                }
                Err(error) => return Err(format!("{XDP} in mode {mode:?}: {error}")),
            }
        }
        Ok(XdpMode::Off)
    }

    /// Modes to try, best first.
    fn xdp_modes(&self, interface: &Interface) -> &'static [XdpMode] {
        match self.xdp {
            XdpModeOption::Off => &[],
            XdpModeOption::Auto if matches!(interface.device, Device::Veth { .. }) => &[],
            XdpModeOption::Auto | XdpModeOption::Native => &[XdpMode::Native],
        }
    }

    fn attach_xdp_mode(
        &self,
        ebpf: &mut Ebpf,
        interface: &Interface,
        pin: &str,
    ) -> Result<(), Failure> {
        let xdp: &mut Xdp = program(ebpf, XDP)?;
        let path = self.pins.join(pin);
        if let Some(link) = pinned(&path)? {
            match xdp.attach_to_link(XdpLink::try_from(link)?) {
                Ok(id) => {
                    drop(xdp.take_link(id)?);
                    return Ok(());
                }
                Err(error) => discard(&path, &error)?,
            }
        }
        let id = xdp.attach_to_if_index(interface.index, aya::programs::XdpMode::Driver)?;
        let link: FdLink = xdp.take_link(id)?.try_into()?;
        link.pin(&path)?;
        Ok(())
    }
}

/// Takes our filters off the interfaces of this namespace, but for those to
/// keep.
pub(super) fn detach_clsact(keep: impl Fn(&str) -> bool) {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else {
        return;
    };
    for interface in &interfaces {
        let Ok(name) = interface.name().to_str() else {
            continue;
        };
        if keep(name) {
            continue;
        }
        for (program, direction) in [
            (EGRESS, TcAttachType::Egress),
            (INGRESS, TcAttachType::Ingress),
        ] {
            // Most interfaces have no such filter.
            let _ = qdisc_detach_program(name, direction, program);
        }
    }
}

fn attach_clsact(
    ebpf: &mut Ebpf,
    interface: &Interface,
    name: &'static str,
    direction: TcAttachType,
) -> Result<(), Failure> {
    let classifier: &mut SchedClassifier = program(ebpf, name)?;
    // Fails if there is one already, which is as good.
    let _ = qdisc_add_clsact(&interface.name);
    let link = SchedClassifierLink::attached(&interface.name, direction, PRIORITY, HANDLE, None)?;
    let id = match classifier.attach_to_link(link) {
        Ok(id) => id,
        Err(_) => {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            });
            classifier.attach_with_options(&interface.name, direction, options)?
        }
    };
    // Dropped, it would take the filter off; the qdisc holds it now.
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

fn pinned(path: &Path) -> Result<Option<FdLink>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(FdLink::from(PinnedLink::from_pin(path)?)))
}

/// Unpins a link that takes no program: its interface is gone, and the index
/// was given to another.
fn discard(path: &Path, error: &ProgramError) -> io::Result<()> {
    tracing::info!(path = %path.display(), %error, "stale link, attaching anew");
    fs::remove_file(path)
}

fn pin_name(index: u32, program: &str) -> String {
    format!("{index}_{program}")
}

fn xdp_pin_name(index: u32, mode: XdpMode) -> String {
    let mode = match mode {
        XdpMode::Native => "native",
        XdpMode::Off => "off",
    };
    format!("{index}_{XDP}_{mode}")
}
