//! `--only`: less of a scenario than it asks for, without another file.

use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use super::{Scenario, Tokens, Workload};
use crate::subject::Algorithm;

/// One value of one of a scenario's lists, as `rate=20`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Only {
    list: String,
    value: String,
}

impl FromStr for Only {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (list, value) = text.split_once('=').with_context(|| format!("{text:?} is not as rate=20"))?;
        let (list, value) = (list.trim(), value.trim());
        ensure!(!list.is_empty() && !value.is_empty(), "{text:?} is not as rate=20");
        Ok(Self { list: one_name(list), value: value.to_owned() })
    }
}

/// A list is meant by its own name or by that of one of its values.
fn one_name(list: &str) -> String {
    list.trim_end_matches('s').replace('_', "-").to_lowercase()
}

/// Keeps the values of a list that were named; what is named has to be in it.
struct Lists<'a> {
    only: &'a [Only],
    known: Vec<&'static str>,
}

impl Lists<'_> {
    fn keep<T: FromStr + PartialEq + Copy>(
        &mut self,
        name: &'static str,
        list: &mut Vec<T>,
        say: impl Fn(&T) -> String,
    ) -> Result<()> {
        self.known.push(name);
        let named: Vec<&str> =
            self.only.iter().filter(|only| only.list == one_name(name)).map(|only| only.value.as_str()).collect();
        if named.is_empty() {
            return Ok(());
        }
        for value in &named {
            let parsed: Option<T> = value.parse().ok();
            let has = || list.iter().map(&say).collect::<Vec<_>>().join(", ");
            ensure!(parsed.is_some_and(|value| list.contains(&value)), "{name} has no {value}; there are {}", has());
        }
        list.retain(|one| named.iter().any(|value| value.parse().ok() == Some(*one)));
        Ok(())
    }

    fn keep_words<T: FromStr + PartialEq + Copy + Display>(
        &mut self,
        name: &'static str,
        list: &mut Vec<T>,
    ) -> Result<()> {
        self.keep(name, list, ToString::to_string)
    }
}

impl Scenario {
    /// Leaves what was named of each list that is named, and the others as they are.
    ///
    /// # Errors
    /// When a list or a value is named that the scenario does not have.
    pub(crate) fn narrow(&mut self, only: &[Only]) -> Result<()> {
        let mut lists = Lists { only, known: Vec::new() };
        let transports = lists.keep_words("transports", &mut self.transports);
        let narrowed = transports.and_then(|()| match &mut self.workload {
            Workload::Fanout(fanout) => lists
                .keep_words("channels", &mut fanout.channels)
                .and_then(|()| lists.keep_words("subscribers", &mut fanout.subscribers))
                .and_then(|()| lists.keep_words("rates", &mut fanout.rates))
                .and_then(|()| lists.keep_words("deliveries", &mut fanout.deliveries))
                .and_then(|()| lists.keep_words("payloads", &mut fanout.payloads))
                .and_then(|()| lists.keep_words("shards", &mut fanout.shards)),
            Workload::Storm(storm) => lists
                .keep("tokens", &mut storm.tokens, |tokens| tokens.word().to_owned())
                .and_then(|()| lists.keep("algorithms", &mut storm.algorithms, |one| one.word().to_owned())),
            Workload::Publish(publish) => lists.keep_words("in-flight", &mut publish.in_flight),
            Workload::Mix(mix) => lists.keep_words("posts", &mut mix.posts),
            Workload::Lossy(lossy) => lists
                .keep_words("losses", &mut lossy.losses)
                .and_then(|()| lists.keep_words("path-losses", &mut lossy.path_losses)),
            Workload::Idle(_) | Workload::Slow(_) | Workload::History(_) | Workload::Cut(_) => Ok(()),
        });
        let name = &self.name;
        narrowed.with_context(|| format!("scenario {name}"))?;
        for one in only {
            let has = lists.known.join(", ");
            let is_known = lists.known.iter().any(|known| one_name(known) == one.list);
            ensure!(is_known, "scenario {name} has no list {:?}; it has {has}", one.list);
        }
        Ok(())
    }
}

impl Tokens {
    /// As in a scenario's file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NewUser => "new-user",
            Self::New => "new",
            Self::Known => "known",
        }
    }
}

impl FromStr for Tokens {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::NewUser, Self::New, Self::Known];
        all.into_iter().find(|one| one.word() == text).with_context(|| format!("there are no {text:?} tokens"))
    }
}

impl Algorithm {
    /// As in a scenario's file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::EdDsa => "eddsa",
            Self::Hs256 => "hs256",
        }
    }
}

impl FromStr for Algorithm {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::EdDsa, Self::Hs256];
        all.into_iter().find(|one| one.word() == text).with_context(|| format!("there is no algorithm {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(scenario: &str, only: &[&str]) -> Result<Workload> {
        let mut scenario = Scenario::load(scenario).expect("built in");
        let only: Vec<Only> = only.iter().map(|text| text.parse()).collect::<Result<_>>()?;
        scenario.narrow(&only)?;
        Ok(scenario.workload)
    }

    #[test]
    fn lists_keep_what_was_named() {
        let Ok(Workload::Fanout(fanout)) = narrow("fanout-sizes", &["rate=20", "subscribers=10", "subscribers=100"])
        else {
            panic!("it fans out")
        };
        assert_eq!((fanout.rates, fanout.subscribers), (vec![20.0], vec![10, 100]));
        assert_eq!(fanout.payloads, [20, 170, 1024], "all that was not named");
        let Ok(Workload::Storm(storm)) = narrow("connect", &["tokens=new-user", "algorithm=hs256"]) else {
            panic!("it storms")
        };
        assert_eq!((storm.tokens, storm.algorithms), (vec![Tokens::NewUser], vec![Algorithm::Hs256]));
        let Ok(Workload::Publish(publish)) = narrow("publish", &["in-flight=10"]) else { panic!("it publishes") };
        assert_eq!(publish.in_flight, [10]);
        let Ok(Workload::Mix(mix)) = narrow("chat", &["posts=50"]) else { panic!("it mixes") };
        assert_eq!(mix.posts, [50.0]);
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        for (scenario, only, reason) in [
            ("fanout", "rate=21", "there are 1, 20, 100, 300"),
            ("fanout", "rate=fast", "there are 1, 20"),
            ("fanout", "posts=10", "no list"),
            ("fanout", "rate", "rate=20"),
            ("fanout", "=1", "rate=20"),
            ("connect", "token=old", "new-user, new, known"),
            ("idle", "channels=1", "it has transports"),
            ("idle", "transport=tcp", "there are ws"),
        ] {
            let error = format!("{:#}", narrow(scenario, &[only]).expect_err(only));
            assert!(error.contains(reason), "{only}: {error}");
        }
    }

    #[test]
    fn words_are_those_of_the_files() {
        for tokens in [Tokens::NewUser, Tokens::New, Tokens::Known] {
            let text = format!("of = \"{}\"", tokens.word());
            let file: std::collections::HashMap<String, Tokens> = toml::from_str(&text).expect("a file's word");
            assert_eq!(file["of"], tokens);
        }
        for algorithm in [Algorithm::EdDsa, Algorithm::Hs256] {
            let text = format!("of = \"{}\"", algorithm.word());
            let file: std::collections::HashMap<String, Algorithm> = toml::from_str(&text).expect("a file's word");
            assert_eq!(file["of"], algorithm);
        }
    }
}
