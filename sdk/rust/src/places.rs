//! The nodes of a deployment and the ways to each: which URLs belong together, and which node is next.

use std::fmt;
use std::sync::Arc;

use crate::endpoint::{Endpoint, Scheme};

/// A node, and the ways to it. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) quic: Option<Endpoint>,
    /// `ws` or `wss`.
    pub(crate) web_socket: Option<Endpoint>,
}

impl Place {
    fn of(endpoint: Endpoint) -> Self {
        match endpoint.scheme {
            Scheme::Quic => Self { quic: Some(endpoint), web_socket: None },
            Scheme::Ws | Scheme::Wss => Self { quic: None, web_socket: Some(endpoint) },
        }
    }

    pub(crate) fn ways(&self) -> impl Iterator<Item = &Endpoint> {
        self.quic.iter().chain(&self.web_socket)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, way) in self.ways().enumerate() {
            let or = if index > 0 { " or " } else { "" };
            write!(f, "{or}{way}")?;
        }
        Ok(())
    }
}

/// Puts together what leads to one node, in the order of the URLs.
///
/// A `quic` URL belongs to the `wss` URL of the same host and port or, where ports differ, to the first of the host that has
/// none. A host with a secure URL loses its `ws` URLs: whoever can block the secure ways must not see the token.
fn group(endpoints: Vec<Endpoint>) -> Vec<Arc<Place>> {
    let is_secure = |host: &str| endpoints.iter().any(|endpoint| endpoint.host == host && endpoint.scheme.is_secure());
    let kept = endpoints.iter().filter(|endpoint| endpoint.scheme.is_secure() || !is_secure(&endpoint.host));
    let mut places: Vec<Place> = kept.cloned().map(Place::of).collect();
    for needs_same_port in [true, false] {
        let mut index = 0;
        while index < places.len() {
            let partner = (index + 1..places.len()).find(|&other| fit(&places[index], &places[other], needs_same_port));
            if let Some(other) = partner {
                let other = places.remove(other);
                let place = &mut places[index];
                place.quic = place.quic.take().or(other.quic);
                place.web_socket = place.web_socket.take().or(other.web_socket);
            }
            index += 1;
        }
    }
    places.into_iter().map(Arc::new).collect()
}

/// Whether one is a way by QUIC and the other a way by WebSocket to the same node.
fn fit(a: &Place, b: &Place, needs_same_port: bool) -> bool {
    let ways = match (a, b) {
        (Place { quic: Some(quic), web_socket: None }, Place { quic: None, web_socket: Some(web_socket) })
        | (Place { quic: None, web_socket: Some(web_socket) }, Place { quic: Some(quic), web_socket: None }) => {
            (quic, web_socket)
        }
        _ => return false,
    };
    ways.0.host == ways.1.host && (!needs_same_port || ways.0.port == ways.1.port)
}

/// The nodes of a deployment, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Places {
    configured: Vec<Arc<Place>>,
    /// From a node that goes away; tried once each, before the others.
    advised: Vec<Arc<Place>>,
    /// The last that worked.
    preferred: Option<Arc<Place>>,
    last: Option<Arc<Place>>,
    next: usize,
}

impl Places {
    /// At least one URL, each of which can be read.
    pub(crate) fn new(urls: &[Arc<str>]) -> Self {
        let configured = group(urls.iter().filter_map(|url| url.parse().ok()).collect());
        assert!(!configured.is_empty(), "a client has at least one endpoint");
        Self { configured, advised: Vec::new(), preferred: None, last: None, next: 0 }
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.configured.len()
    }

    /// The one to try now; each call names the next.
    pub(crate) fn next(&mut self) -> Arc<Place> {
        let place = self.advised.pop().or_else(|| self.preferred.take()).unwrap_or_else(|| {
            let index = self.next % self.configured.len();
            self.next = index + 1;
            self.configured[index].clone()
        });
        self.last = Some(place.clone());
        place
    }

    /// The one named last has worked: it is tried first again.
    pub(crate) fn worked(&mut self) {
        self.advised.clear();
        self.preferred = self.last.clone();
    }

    /// Takes a node's word on where to go, beginning at a place that spreads its clients. A bare `host:port` is of the same
    /// schemes as the node's own URLs. What cannot be used is left out, and so is `ws` for a client that was given none: no
    /// node makes a client show its token in the clear.
    pub(crate) fn advise(&mut self, urls: &[&str], spread: u64) {
        let configured = || self.configured.iter().flat_map(|place| place.ways());
        let takes_clear = configured().any(|way| !way.scheme.is_secure());
        let schemes: Vec<Scheme> = self.last.iter().flat_map(|place| place.ways()).map(|way| way.scheme).collect();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for url in urls {
            if url.contains("://") {
                endpoints.extend(url.parse());
            } else {
                let complete = schemes.iter().map(|scheme| format!("{}://{url}", scheme.name()));
                endpoints.extend(complete.filter_map(|url| url.parse().ok()));
            }
        }
        endpoints.retain(|endpoint: &Endpoint| takes_clear || endpoint.scheme.is_secure());
        self.advised = group(endpoints);
        if !self.advised.is_empty() {
            let len = self.advised.len();
            self.advised.rotate_left(usize::try_from(spread % (len as u64)).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(urls: &[&str]) -> Places {
        Places::new(&urls.iter().map(|&url| url.into()).collect::<Vec<_>>())
    }

    fn next(places: &mut Places) -> String {
        places.next().to_string()
    }

    #[test]
    fn the_one_that_worked_is_tried_first() {
        let mut places = places(&["ws://a", "ws://b"]);
        assert_eq!(next(&mut places), "ws://a");
        assert_eq!(next(&mut places), "ws://b");
        places.worked();
        assert_eq!(next(&mut places), "ws://b");
        assert_eq!(next(&mut places), "ws://a");
        places.advise(&["c:1", "ftp://no", "ws://d:2", "no host"], 1);
        assert_eq!(next(&mut places), "ws://c:1");
        assert_eq!(next(&mut places), "ws://d:2");
        assert_eq!(next(&mut places), "ws://b");
    }

    #[test]
    fn urls_of_one_node_belong_together() {
        let check = |urls: &[&str], expect: &[&str]| {
            let mut places = places(urls);
            let grouped: Vec<String> = (0..places.len()).map(|_| next(&mut places)).collect();
            assert_eq!(grouped, expect, "{urls:?}");
        };
        check(&["wss://a", "quic://a"], &["quic://a or wss://a"]);
        check(&["wss://A:7", "wss://b", "quic://a:7"], &["quic://a:7 or wss://A:7", "wss://b"]);
        // Two nodes on one host.
        check(
            &["quic://a:1", "quic://a:2", "wss://a:2", "wss://a:1"],
            &["quic://a:1 or wss://a:1", "quic://a:2 or wss://a:2"],
        );
        // UDP by another way in.
        check(&["wss://a", "quic://a:4433"], &["quic://a:4433 or wss://a"]);
        check(&["wss://a", "quic://b"], &["wss://a", "quic://b"]);
        check(&["quic://a", "quic://a:2", "wss://a"], &["quic://a or wss://a", "quic://a:2"]);
        // Whoever blocks the secure ways must not see the token.
        check(&["ws://a:7400", "wss://a:7443", "ws://b"], &["wss://a:7443", "ws://b"]);
        check(&["ws://a", "quic://a"], &["quic://a"]);
    }

    #[test]
    fn a_node_cannot_send_a_client_into_the_clear() {
        let mut places = places(&["wss://a", "quic://a"]);
        next(&mut places);
        places.advise(&["ws://b", "c:7", "quic://d"], 0);
        let mut advised = [next(&mut places), next(&mut places)];
        advised.sort();
        assert_eq!(advised, ["quic://c:7 or wss://c:7", "quic://d"]);
        assert_eq!(next(&mut places), "quic://a or wss://a", "those of the configuration again");
    }
}
