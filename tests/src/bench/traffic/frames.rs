//! Frames that XDP puts on the wire to a node's uplink, and where they end.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray},
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode, xdp::XdpLinkId},
};
use nix::net::if_::if_nametoindex;

use super::clock::Clock;
use crate::{
    bench::floor::{self, Established},
    lab::Entrance,
};

/// As in the object.
const MARK: &[u8] = b"lb!?";
const FRAME: usize = 60;
/// Of one system call, which waits long for its pages to be given back; what CPU
/// time was used is asked for in between.
const AT_ONCE: u32 = 32_768;

/// Addresses of a frame from the client's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) to_mac: [u8; 6],
    /// Its last two bytes are made anew in new flows.
    pub(super) source: Ipv4Addr,
    /// 0 where each frame begins a flow.
    pub(super) source_port: u16,
    pub(super) destination: Ipv4Addr,
    pub(super) destination_port: u16,
}

/// Sends frames out of an interface.
pub(super) struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

/// The floor program at an interface, out of which frames leave as they do on the way
/// of the product: by redirect.
#[derive(Debug)]
pub(super) struct Floor {
    ebpf: Ebpf,
    _link: XdpLinkId,
}

/// Counts and drops them when they come back to it.
pub(super) struct Sink {
    ebpf: Ebpf,
    _link: XdpLinkId,
}

/// What a load was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) frames: u64,
    pub(super) cpu: Duration,
}

impl Generator {
    /// In the namespace of the calling thread.
    pub(super) fn load(object: &Path, interface: &str, flow: &Flow) -> Result<Self> {
        let frame = flow.frame();
        let words: Vec<u32> = frame[..48]
            .chunks_exact(4)
            .filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)))
            .collect();
        let target = if_nametoindex(interface)?;
        let new_flows = u32::from(flow.source_port == 0);
        let mut ebpf = EbpfLoader::new()
            .override_global("FRAME", words.as_slice(), true)
            .override_global("TARGET", &target, true)
            .override_global("NEW_FLOWS", &new_flows, true)
            .load_file(object)
            .with_context(|| object.display().to_string())?;
        program(&mut ebpf, "generate")?.load()?;
        Ok(Self { ebpf, frame })
    }

    /// Sends until the CPU time is used up, or `most` frames are sent, from the
    /// calling thread, which must be in the interface's namespace.
    pub(super) fn send(&mut self, budget: Duration, most: u64) -> Result<Sent> {
        let program = program(&mut self.ebpf, "generate")?;
        let run = |repeat: u32| -> Result<(), ProgramError> {
            let mut options = TestRunOptions {
                data_in: Some(&self.frame),
                repeat,
                ..TestRunOptions::default()
            };
            options.attrs = options.attrs.xdp_live_frames(64);
            program.test_run(options).map(|_| ())
        };
        let clock = Clock::start()?;
        let mut frames = 0;
        while frames < most && clock.total()? < budget {
            let next = u64::from(AT_ONCE).min(most - frames);
            run(u32::try_from(next)?).context("sending live frames")?;
            frames += next;
        }
        Ok(Sent {
            frames,
            cpu: clock.total()?,
        })
    }
}

impl Floor {
    /// In the namespace of the calling thread.
    pub(super) fn attach(object: &Path, interface: &str) -> Result<Self> {
        let (ebpf, link) = attach(object, "floor_redirect", interface)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Has it translate this flow, among so many Services.
    pub(super) fn serve(&mut self, flow: &Established, services: usize) -> Result<()> {
        floor::enter(&mut self.ebpf, flow, u32::try_from(services)?)
    }
}

impl Sink {
    /// In the namespace of the calling thread.
    pub(super) fn attach(object: &Path, interface: &str) -> Result<Self> {
        let (ebpf, link) = attach(object, "sink", interface)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Frames that ended here, and where the last one of them went to.
    pub(super) fn count(&self) -> Result<(u64, Option<Ipv4Addr>)> {
        let map = self.ebpf.map("SUNK").context("no map SUNK")?;
        let map: PerCpuArray<&MapData, [u64; 2]> = PerCpuArray::try_from(map)?;
        let all = map.get(&0, 0)?;
        let frames = all.iter().map(|[frames, _]| frames).sum();
        let last = all.iter().find(|[frames, _]| *frames > 0);
        let address = |word: &u64| {
            let [a, b, c, d, ..] = word.to_ne_bytes();
            Ipv4Addr::new(a, b, c, d)
        };
        Ok((frames, last.map(|[_, word]| address(word))))
    }
}

/// Sends and counts what arrived, once all of it had the time to.
pub(super) fn measure(
    netns: &Entrance,
    generator: &mut Generator,
    sink: &Sink,
    budget: Duration,
    most: u64,
) -> Result<(Sent, u64, Option<Ipv4Addr>)> {
    let (before, _) = sink.count()?;
    let sent = netns.run(|| generator.send(budget, most))?;
    std::thread::sleep(Duration::from_millis(5));
    let (after, last) = sink.count()?;
    ensure!(after > before, "no frame of {} arrived", sent.frames);
    Ok((sent, after - before, last))
}

impl Flow {
    /// With all checksums, for a source whose last two bytes are 0 in new flows.
    fn frame(&self) -> Vec<u8> {
        let mut source = self.source.octets();
        if self.source_port == 0 {
            source[2..].fill(0);
        }
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], self.to_mac)
            .ipv4(source, self.destination.octets(), 64)
            .udp(self.source_port, self.destination_port);
        let mut payload = MARK.to_vec();
        payload.resize(FRAME - 42, 0);
        let mut frame = Vec::with_capacity(FRAME);
        // Writing to a Vec cannot fail, and the payload is short.
        let _ = builder.write(&mut frame, &payload);
        frame
    }
}

fn attach(object: &Path, name: &str, interface: &str) -> Result<(Ebpf, XdpLinkId)> {
    let mut ebpf = EbpfLoader::new()
        .load_file(object)
        .with_context(|| object.display().to_string())?;
    let program = program(&mut ebpf, name)?;
    program.load()?;
    let link = program
        .attach(interface, XdpMode::Driver)
        .with_context(|| format!("attaching {name} to {interface}"))?;
    Ok((ebpf, link))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    Ok(program.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_mark_where_the_sink_looks() {
        let flow = Flow {
            to_mac: [2; 6],
            source: [198, 51, 100, 10].into(),
            source_port: 0,
            destination: [203, 0, 113, 1].into(),
            destination_port: 80,
        };
        let frame = flow.frame();
        assert_eq!(frame.len(), FRAME);
        assert_eq!(&frame[42..46], MARK);
        assert_eq!(frame[26..30], [198, 51, 0, 0]);
        assert_eq!(frame[34..38], [0, 0, 0, 80]);
    }
}
