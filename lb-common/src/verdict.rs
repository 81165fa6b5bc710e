//! Every way a packet can leave a program. The verdict is the counter's index.

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    Xdp = 0,
    TcIngress = 1,
    TcEgress = 2,
}

impl Hook {
    pub const ALL: [Self; 3] = [Self::Xdp, Self::TcIngress, Self::TcEgress];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
        }
    }
}

macro_rules! verdicts {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $class:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[$meta])* $name,)*
        }

        impl Verdict {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Name in metrics and status.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            #[inline(always)]
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }
        }
    };
}

/// What became of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Left as it came.
    Untouched,
    Translated,
    /// Turned into an answer to its sender.
    Answered,
    Dropped,
}

verdicts! {
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip", Untouched;
    /// Too short, or lengths that contradict each other.
    Malformed = "malformed", Untouched;
    /// A later fragment whose first one was not seen.
    Fragment = "fragment", Untouched;
    /// Neither TCP nor UDP nor SCTP, nor an ICMP error about a connection.
    OtherProtocol = "other_protocol", Untouched;
    /// Neither a connection nor a frontend.
    NoFrontend = "no_frontend", Untouched;
    /// Of a connection that another hook translates.
    OtherHook = "other_hook", Untouched;
    /// Translated before it was sent to this interface.
    Passing = "passing", Untouched;
    /// Handed from XDP to TC, which can do more.
    Deferred = "deferred", Untouched;
    /// TCP to a frontend, of no known connection, and not the start of one.
    Stray = "stray", Untouched;
    /// To a frontend, in a frame for another machine.
    Overheard = "overheard", Untouched;
    /// First packet of a connection.
    Opened = "opened", Translated;
    Forward = "forward", Translated;
    Reply = "reply", Translated;
    /// An ICMP error about a packet of a connection.
    Related = "related", Translated;
    /// The frontend has no usable backend, or a clusterIP no such port: a TCP
    /// reset or an ICMP error says so.
    Rejected = "rejected", Answered;
    /// Time to live or hop limit used up where we forward: the sender is told.
    TimeExceeded = "time_exceeded", Answered;
    /// Longer than the next link takes: the sender is told.
    TooBig = "too_big", Answered;
    /// An echo request to a frontend's address.
    Echo = "echo", Answered;
    /// The sender cannot be told what is wrong, or was told too often.
    Unanswered = "unanswered", Dropped;
    /// The traffic policy allows backends of this node only; there is none.
    NoLocalBackend = "no_local_backend", Dropped;
    /// The load balancer's source ranges do not hold the client.
    SourceRange = "source_range", Dropped;
    /// An address of the service CIDR that no Service has.
    NoService = "no_service", Dropped;
    /// The backend that was drawn is gone.
    NoBackend = "no_backend", Dropped;
    /// From a pod that claims to be another one, or on another node.
    Forged = "forged", Dropped;
    /// The route to the backend or the client is missing or prohibited.
    NoRoute = "no_route", Dropped;
    /// Source translation is needed and the interface has no address.
    NoSourceAddress = "no_source_address", Dropped;
    /// No free source port was found towards the backend.
    NoSourcePort = "no_source_port", Dropped;
    /// The connection table refused the entry.
    TableFull = "table_full", Dropped;
    /// A later fragment that waits for the first one.
    Held = "held", Dropped;
    /// A later fragment to a clusterIP that could not wait for the first one; or
    /// one of SCTP whose ports change, which takes the whole packet.
    FragmentLost = "fragment_lost", Dropped;
    /// The frontend changed hands several times while it was read.
    Unstable = "unstable", Dropped;
    /// The kernel refused to change or send the packet.
    Refused = "refused", Dropped;
}

impl Verdict {
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// [`Self::name`], padded with spaces: one length suits the verifier.
    /// A power of two of them, so that a mask bounds the index.
    pub const LABELS: [[u8; Self::LABEL]; Self::ALL.len().next_power_of_two()] = {
        let mut labels = [[b' '; Self::LABEL]; Self::ALL.len().next_power_of_two()];
        let mut index = 0;
        while index < Self::ALL.len() {
            let name = Self::ALL[index].name().as_bytes();
            let mut letter = 0;
            while letter < name.len() {
                labels[index][letter] = name[letter];
                letter += 1;
            }
            index += 1;
        }
        labels
    };
    const LABEL: usize = 20;

    /// Index into the counters map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self, hook: Hook) -> u32 {
        Self::counter_of(self as u32, hook)
    }

    /// Index into the counters map, of a verdict's number.
    #[inline(always)]
    #[must_use]
    pub const fn counter_of(verdict: u32, hook: Hook) -> u32 {
        hook as u32 * Self::COUNT + verdict
    }
}

/// Length of the counters map.
pub const COUNTERS: u32 = Hook::ALL.len() as u32 * Verdict::COUNT;
