//! Functions that the verifier looks at by themselves, once, and not again at
//! each call and for each way that leads there: hence their linkage. They find
//! what they need in the scratch.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};

use crate::{
    answer::answer,
    claim::claim,
    closer::look_closer,
    family::{Family, V4, V6},
    open::open,
    packet::{Outcome, Packet},
    pipeline::{depart, settle},
    relate::relate,
    tc::{Egress, Ingress, Tc},
    track::track,
    xdp::Xdp,
};

pub trait Subprograms: Packet {
    /// Handles the packet in the scratch, unless it is to open a connection,
    /// which is said by [`lb_common::Verdict::Opened`]. Other than 0, `is_kept`
    /// says that it is to stay with its connection.
    fn track<F: Family>(&self, is_kept: u32) -> Outcome;

    /// Plans the connection of which the packet in the scratch is the first one,
    /// which is said by [`lb_common::Verdict::Opened`], unless it is to be refused,
    /// which is said by [`lb_common::Verdict::Rejected`].
    fn open<F: Family>(&self) -> Outcome;

    /// Enters the connection that is planned, which is said by
    /// [`lb_common::Verdict::Opened`].
    fn claim(&self) -> Outcome;

    /// Sends the packet in the scratch the way that its connection goes, which is
    /// said by [`lb_common::Verdict::Forward`].
    fn depart<F: Family>(&self, way: u32) -> Outcome;

    /// Answers the packet in the scratch, which is as it came. `why` is a
    /// verdict: nobody serves it, or it can go no further.
    fn answer<F: Family>(&self, why: u32) -> Outcome;

    /// Handles a packet that is more than a network and a transport header.
    fn look_closer<F: Family>(&self, network: u32) -> Outcome;

    /// Handles an ICMP packet.
    fn relate<F: Family>(&self, network: u32) -> Outcome;
}

macro_rules! subprograms {
    ($packet:ty, $context:ident, $again:expr, $claim:ident, $($method:ident($($argument:ident)?) = $v4:ident, $v6:ident;)*) => {
        impl Subprograms for $packet {
            #[inline(always)]
            fn claim(&self) -> Outcome {
                Outcome::from_word($claim(self.context().cast()))
            }

            $(
                #[inline(always)]
                fn $method<F: Family>(&self $(, $argument: u32)?) -> Outcome {
                    let context = self.context().cast();
                    Outcome::from_word(match F::INDEX {
                        0 => $v4(context $(, $argument)?),
                        _ => $v6(context $(, $argument)?),
                    })
                }
            )*
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $claim(context: *mut $context) -> u64 {
            let packet: $packet = $again(context);
            settle::<$packet>(claim(&packet)).word()
        }

        $(
            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $v4(context: *mut $context $(, $argument: u32)?) -> u64 {
                let packet: $packet = $again(context);
                settle::<$packet>($method::<$packet, V4>(&packet $(, $argument)?)).word()
            }

            #[inline(never)]
            #[unsafe(no_mangle)]
            extern "C" fn $v6(context: *mut $context $(, $argument: u32)?) -> u64 {
                let packet: $packet = $again(context);
                settle::<$packet>($method::<$packet, V6>(&packet $(, $argument)?)).word()
            }
        )*
    };
}

subprograms!(Xdp, xdp_md, |context| Xdp::new(XdpContext::new(context)), lb_xdp_claim,
    track(is_kept) = lb_xdp_track_v4, lb_xdp_track_v6;
    open() = lb_xdp_open_v4, lb_xdp_open_v6;
    depart(way) = lb_xdp_depart_v4, lb_xdp_depart_v6;
    answer(why) = lb_xdp_answer_v4, lb_xdp_answer_v6;
    look_closer(network) = lb_xdp_look_closer_v4, lb_xdp_look_closer_v6;
    relate(network) = lb_xdp_relate_v4, lb_xdp_relate_v6;
);
subprograms!(Tc<Ingress>, __sk_buff, |context| Tc::again(TcContext::new(context)), lb_ingress_claim,
    track(is_kept) = lb_ingress_track_v4, lb_ingress_track_v6;
    open() = lb_ingress_open_v4, lb_ingress_open_v6;
    depart(way) = lb_ingress_depart_v4, lb_ingress_depart_v6;
    answer(why) = lb_ingress_answer_v4, lb_ingress_answer_v6;
    look_closer(network) = lb_ingress_look_closer_v4, lb_ingress_look_closer_v6;
    relate(network) = lb_ingress_relate_v4, lb_ingress_relate_v6;
);
subprograms!(Tc<Egress>, __sk_buff, |context| Tc::again(TcContext::new(context)), lb_egress_claim,
    track(is_kept) = lb_egress_track_v4, lb_egress_track_v6;
    open() = lb_egress_open_v4, lb_egress_open_v6;
    depart(way) = lb_egress_depart_v4, lb_egress_depart_v6;
    answer(why) = lb_egress_answer_v4, lb_egress_answer_v6;
    look_closer(network) = lb_egress_look_closer_v4, lb_egress_look_closer_v6;
    relate(network) = lb_egress_relate_v4, lb_egress_relate_v6;
);
