//! A Millrace that runs already, here or elsewhere: nothing is started or stopped, channels are made through its API.

use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use super::api::Api;
use super::guarantee;
use crate::dialect;
use crate::process::Family;
use crate::subject::{History, Missing, Needs, Running, Subject};

/// Where it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArguments {
    /// Measure the cluster with clients at this address, such as ws://203.0.113.7:7400, in place of a server of its own
    #[arg(long, value_name = "URL", requires = "api", requires = "api_key", conflicts_with = "server")]
    pub(crate) url: Option<String>,
    /// The cluster's REST API, such as http://203.0.113.7:7410
    #[arg(long, value_name = "URL", requires = "url")]
    pub(crate) api: Option<String>,
    /// A key of the tenant that the run's channels are made in; they are named perf-TIME-NUMBER and stay
    #[arg(long, value_name = "KEY", requires = "url", env = "MILLRACE_PERF_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Processes of the cluster on this machine, whose CPU time and memory are told
    #[arg(long, value_name = "PID", requires = "url", value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
}

/// A cluster by its address.
pub(crate) struct Cluster {
    address: SocketAddr,
    api: String,
    key: String,
    processes: Vec<u32>,
}

impl Cluster {
    /// `None` if no cluster was named.
    ///
    /// # Errors
    /// When its address cannot be read or found.
    pub(crate) fn new(arguments: &ClusterArguments) -> Result<Option<Self>> {
        let (Some(url), Some(api), Some(key)) = (&arguments.url, &arguments.api, &arguments.api_key) else {
            return Ok(None);
        };
        let host = url.strip_prefix("ws://").with_context(|| format!("{url:?} has to begin with ws://"))?;
        let host = host.split('/').next().unwrap_or_default();
        let address = host.to_socket_addrs().ok().and_then(|mut found| found.next());
        let address = address.with_context(|| format!("{host:?} is no address with a port that can be found"))?;
        Ok(Some(Self { address, api: api.clone(), key: key.clone(), processes: arguments.pid.clone() }))
    }
}

impl Subject for Cluster {
    fn name(&self) -> &'static str {
        "cluster"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        Some(guarantee(history))
    }

    fn resumes(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let api = Api::new(&self.api, &self.key);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // A run leaves its channels behind, and the next one must not meet them.
        let channels = api.channels(&format!("perf-{}", since.as_millis()), needs)?;
        let producers = u64::try_from(since.as_nanos() & u128::from(u64::MAX >> 1))?;
        let (target, tokens) = ("/v1/connect".to_owned(), api.tokens(needs)?);
        let family = Family::of(self.processes.clone());
        let (tokens, owner) = (tokens.of_users, tokens.of_owner);
        Ok(Running {
            address: self.address,
            dialect: Rc::new(dialect::millrace::Millrace { target, tokens, owner, channels, producers }),
            version: format!("at {}", self.address),
            session_family: family.clone(),
            family,
            cores: None,
            owned: Vec::new(),
            folder: None,
        })
    }
}
