//! What is attacked, and who watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_data::QuicLimits;
use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;

use crate::process::Node;
use crate::support::quic::{QuicClient, Trust};
use crate::support::{Client, Control, PATIENCE, until};

/// How long a message may take to come back, however hard the node is attacked: far less than any client's patience, and far more than
/// a busy machine needs.
const LATENCY_MAX: Duration = Duration::from_secs(5);
/// What attacks may make the node grow by.
pub(crate) const GROWTH_MAX: f64 = 64.0 * 1_048_576.0;

/// Attacks take turns.
static TURN: Mutex<()> = Mutex::new(());

/// How long an attack lasts.
fn duration() -> Duration {
    let seconds = std::env::var("MILLRACE_HOSTILE_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

/// Whether attacks last long enough for what production has to bear.
pub(crate) fn is_long() -> bool {
    duration() >= Duration::from_secs(10)
}

/// SplitMix64, by a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A node of one shard, and what its clients need to know.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) control: Control,
    pub(crate) trust: Trust,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// With the limits of production.
    pub(crate) fn new() -> Self {
        Self::with(&QuicLimits::default())
    }

    /// Of these limits the node hears of [`QuicLimits::retry_above_half_open`].
    pub(crate) fn with(quic: &QuicLimits) -> Self {
        // Whoever failed is done with it.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let control = Control::new();
        control.channel("general", HistoryClass::None, &["ann"]);
        control.channel("loud", HistoryClass::None, &["ann"]);
        let node = Node::start(&control, quic);
        Self { node, control, trust: Trust::of_the_table(), _turn: turn }
    }

    /// Attacks until the time is over, while witnesses over WebSocket, QUIC and WebTransport hear what one of them says. `attack` is called again and
    /// again, and gives how much it did. The node may grow by so many bytes.
    pub(crate) fn attacked(&self, what: &str, growth_max: f64, attack: impl FnMut() -> u64 + Send) {
        self.attacked_until(what, growth_max, |_| true, attack);
    }

    /// The same, and for longer if that was not `enough`.
    pub(crate) fn attacked_until(
        &self,
        what: &str,
        growth_max: f64,
        enough: impl Fn(&Node) -> bool,
        mut attack: impl FnMut() -> u64 + Send,
    ) {
        let token = self.control.token("ann");
        let mut over_ws = Client::connect(self.node.ws, &token);
        let mut over_quic = QuicClient::connect(&self.trust, self.node.quic, &token);
        let mut over_web = QuicClient::connect(&self.trust.over_web(), self.node.quic, &token);
        let (channel, _) = over_ws.subscribe("general", Start::Live);
        over_quic.subscribe("general", Start::Live);
        over_web.subscribe("general", Start::Live);
        let before = self.node.resident_bytes();
        let (done, attacks) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut latencies, mut grown) = (Vec::new(), Vec::new());
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    attacks.fetch_add(attack(), Ordering::Relaxed);
                }
            });
            // Whatever comes of the witnesses, attackers come to an end.
            let _end = OnDrop(&done);
            let mut sequence = 0;
            while began.elapsed() < duration() || !enough(&self.node) {
                assert!(began.elapsed() < 4 * duration() + PATIENCE, "{what}: it is never enough");
                sequence += 1;
                let said = Instant::now();
                over_ws.publish(channel, 1, sequence, b"still here");
                assert_eq!(over_ws.message().body, b"still here", "{what}");
                assert_eq!(over_quic.message().body, b"still here", "{what}");
                assert_eq!(over_web.message().body, b"still here", "{what}");
                latencies.push(said.elapsed());
                grown.push(self.node.resident_bytes() - before);
            }
        });
        let lasted = began.elapsed();
        let attacks = attacks.into_inner();
        latencies.sort_unstable();
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        let most = grown.iter().copied().fold(0.0, f64::max);
        let mib = |bytes: f64| bytes / 1_048_576.0;
        println!(
            "{what}: {attacks} in {lasted:.1?}; {} messages heard by three witnesses, p50 {:.1?}, p99 {:.1?}, longest {:.1?}; the node had \
             {:.1} MiB, then {:+.1} half way, {:+.1} at the end, {:+.1} at most",
            latencies.len(),
            at(50),
            at(99),
            at(100),
            mib(before),
            mib(grown[grown.len() / 2]),
            mib(grown[grown.len() - 1]),
            mib(most),
        );
        assert!(attacks > 0, "{what}: nobody attacked");
        assert!(at(100) < LATENCY_MAX, "{what}: {:?}", at(100));
        assert!(most < growth_max, "{what}: {most} bytes more");
        for mut witness in [over_quic, over_web] {
            witness.finish();
            assert_eq!(witness.closed(), Ok((0, String::new())), "{what}");
        }
    }

    /// Nobody has left anything behind, and the node ends as ever. Handshakes that do not go on are left for as long as they may take,
    /// which is longer than most of these tests.
    pub(crate) fn end(self) {
        until("nothing is left of them", || {
            let begun = if is_long() { 0.0 } else { self.node.of("quic_half_open") };
            self.node.of("sessions") <= begun
        });
        self.node.stop();
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
