//! What clients say that they are: each text once, however many sessions say it. A session keeps one byte.

/// Different texts at one time; sessions with yet another one have none.
const TEXTS_MAX: usize = 64;

/// One of the texts. 0 stands for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Agent(u8);

#[derive(Default)]
pub(crate) struct Agents {
    /// Places stay; one that nobody uses is given again.
    texts: Vec<Text>,
}

struct Text {
    text: Box<str>,
    sessions: u32,
}

impl Agents {
    /// Counts a session that says `text`.
    pub(crate) fn take(&mut self, text: &str) -> Agent {
        if text.is_empty() {
            return Agent::default();
        }
        let known = self.texts.iter().position(|known| known.sessions > 0 && &*known.text == text);
        let free = || self.texts.iter().position(|known| known.sessions == 0);
        let place = match known.or_else(free) {
            Some(place) => place,
            None if self.texts.len() < TEXTS_MAX => {
                self.texts.push(Text { text: Box::default(), sessions: 0 });
                self.texts.len() - 1
            }
            None => return Agent::default(),
        };
        let found = &mut self.texts[place];
        if found.sessions == 0 {
            found.text = text.into();
        }
        found.sessions += 1;
        Agent(u8::try_from(place + 1).unwrap_or(0))
    }

    /// A session that said so is over.
    pub(crate) fn give_back(&mut self, agent: Agent) {
        if let Some(text) = usize::from(agent.0).checked_sub(1).and_then(|place| self.texts.get_mut(place)) {
            text.sessions -= 1;
        }
    }

    /// The text, empty for none.
    pub(crate) fn text(&self, agent: Agent) -> &str {
        usize::from(agent.0).checked_sub(1).and_then(|place| self.texts.get(place)).map_or("", |text| &text.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_kept_once_and_places_are_used_again() {
        let mut agents = Agents::default();
        let (rust, js) = (agents.take("rust/1"), agents.take("js/1"));
        assert_eq!((agents.take("rust/1"), agents.text(rust), agents.text(js)), (rust, "rust/1", "js/1"));
        assert_eq!((agents.take(""), agents.text(Agent::default())), (Agent::default(), ""));
        agents.give_back(js);
        assert_eq!((agents.take("go/1"), agents.text(js)), (js, "go/1"));
        agents.give_back(rust);
        assert_eq!(agents.text(rust), "rust/1", "one session is left");
        agents.give_back(Agent::default());
    }

    #[test]
    fn strangers_texts_are_bounded() {
        let mut agents = Agents::default();
        let taken: Vec<_> = (0..TEXTS_MAX).map(|n| agents.take(&format!("a{n}"))).collect();
        assert!(taken.iter().all(|agent| *agent != Agent::default()));
        assert_eq!(agents.take("one more"), Agent::default());
        agents.give_back(taken[3]);
        assert_eq!(agents.take("one more"), taken[3]);
        assert_eq!(agents.texts.len(), TEXTS_MAX);
    }
}
