//! Many scenarios with many drivers, some at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::driver::Driver;
use crate::drivers::{DriverSpec, Places};
use crate::play::{Outcome, Over, play};
use crate::real::Tenant;
use crate::scenario::{Scenario, ServerSpec};
use crate::server::Server;
use crate::transport::Transport;
use crate::trust::Trust;

/// How long one wait may take. Far more than anything takes on an idle machine: the longest is for an idle client over QUIC to ask
/// whether its server is still there, which it does every 20 seconds.
const PATIENCE: Duration = Duration::from_secs(45);

/// What is run.
#[derive(Clone)]
pub struct Suite {
    /// The server under test.
    pub millrace: PathBuf,
    /// Where things are.
    pub places: Places,
    /// SDKs by short name.
    pub drivers: BTreeMap<String, DriverSpec>,
    /// In the order in which they are shown.
    pub scenarios: Vec<Scenario>,
    /// Over which, as far as an SDK has them.
    pub transports: Vec<Transport>,
    /// Whom everybody trusts.
    pub trust: Arc<Trust>,
    /// Scenarios at a time.
    pub jobs: usize,
}

/// How one scenario ended with one SDK over one transport.
#[derive(Debug, Clone)]
pub struct Report {
    /// Short name of the SDK.
    pub sdk: String,
    /// Over which.
    pub transport: Transport,
    /// Name of the scenario.
    pub scenario: String,
    /// How.
    pub outcome: Outcome,
    /// In which time.
    pub elapsed: Duration,
}

impl Suite {
    /// Runs everything; `tell` hears of each as it ends.
    pub fn run(&self, tell: impl Fn(&Report) + Sync) -> Vec<Report> {
        let mut work = Vec::new();
        for (sdk, driver) in &self.drivers {
            for &transport in self.transports.iter().filter(|transport| driver.transports.contains(transport)) {
                let played = self.scenarios.iter().filter(|scenario| !scenario.not_over.contains_key(&transport));
                work.extend(played.map(|scenario| (sdk, transport, scenario)));
            }
        }
        // Those that wait most begin first, so that none of them is alone at the end.
        work.sort_by_key(|(_, transport, scenario)| (scenario.server.is_own(), *transport));
        let work = Mutex::new(work);
        let shared = SharedServer::default();
        let reports = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = work.lock().expect("no holder panics").pop();
                        let Some((sdk, transport, scenario)) = next else { return };
                        let begun = Instant::now();
                        let outcome = self.one(sdk, transport, scenario, &shared).unwrap_or_else(|error| {
                            Outcome::Failed { faults: vec![format!("{error:#}")], detail: String::new() }
                        });
                        let (sdk, scenario) = (sdk.clone(), scenario.name.clone());
                        let report = Report { sdk, transport, scenario, outcome, elapsed: begun.elapsed() };
                        tell(&report);
                        reports.lock().expect("no holder panics").push(report);
                    }
                });
            }
        });
        let mut reports = reports.into_inner().expect("no holder panics");
        reports.sort_by(|a, b| (&a.sdk, a.transport, &a.scenario).cmp(&(&b.sdk, b.transport, &b.scenario)));
        reports
    }

    fn one(&self, sdk: &str, transport: Transport, scenario: &Scenario, shared: &SharedServer) -> Result<Outcome> {
        let server = if scenario.server.is_own() {
            Arc::new(Mutex::new(Server::start(&self.millrace, &scenario.server, &self.trust)?))
        } else {
            shared.get(self)?
        };
        let world = Arc::new(Tenant::new(server, scenario).context("prepare the server")?);
        let mut process = self.drivers[sdk].process(sdk, &self.places)?;
        let over = Over { transport, trust: self.trust.clone() };
        play(scenario, world, &over, PATIENCE, |on_event| Driver::start(&mut process, on_event))
    }
}

/// The server of all scenarios that do not need one of their own; started when the first one asks.
#[derive(Default)]
struct SharedServer(OnceLock<Result<Arc<Mutex<Server>>, String>>);

impl SharedServer {
    fn get(&self, suite: &Suite) -> Result<Arc<Mutex<Server>>> {
        let started = self.0.get_or_init(|| {
            Server::start(&suite.millrace, &ServerSpec::default(), &suite.trust)
                .map(|server| Arc::new(Mutex::new(server)))
                .map_err(|error| format!("{error:#}"))
        });
        started.clone().map_err(|error| anyhow::anyhow!("the shared server: {error}"))
    }
}
