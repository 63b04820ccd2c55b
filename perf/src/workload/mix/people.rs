//! What everybody knows, waits for and is to get.

use std::collections::{HashMap, VecDeque};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::super::histogram;
use super::{Ledger, PAGE};
use crate::dialect::{Event, Mark, Plan};
use crate::load::Sink;

/// Something that somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Write a message.
    Post,
    /// Look at the newest page of a channel.
    Look,
    /// Look at an older one, so many pages back.
    Scroll { pages: u64 },
    /// Lose the connection and come back.
    Reconnect,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Action {
    pub(super) deed: Deed,
    /// In the person's list of channels.
    pub(super) place: usize,
    pub(super) due_ns: u64,
}

/// A page that somebody waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) user: usize,
    /// It ends just before this offset; 0: with the newest message.
    pub(super) before: u64,
    /// The newest message that its reader had when they asked.
    pub(super) known: u64,
    pub(super) due_ns: u64,
}

impl Asked {
    /// # Errors
    /// When the page is not the one that was asked for.
    fn check(&self, messages: u32, offsets: Option<(u64, u64)>) -> Result<()> {
        let last = if self.before > 0 { self.before - 1 } else { offsets.map_or(0, |(_, last)| last) };
        let wanted = (last.saturating_sub(PAGE - 1).max(1), last);
        ensure!(
            offsets == Some(wanted) && u64::from(messages) == wanted.1 - wanted.0 + 1,
            "the page before {} has {messages} messages, {offsets:?}",
            self.before
        );
        // Older than what its reader has already seen it cannot be.
        ensure!(
            self.before > 0 || last >= self.known,
            "the newest page ends with {last}, its reader knew of {}",
            self.known
        );
        Ok(())
    }
}

pub(super) struct Person {
    pub(super) client: usize,
    pub(super) channels: Vec<u32>,
    /// Where each channel stood when they first came, and messages of each since then.
    pub(super) marks: Vec<Mark>,
    pub(super) got: Vec<u64>,
    pub(super) is_ready: bool,
    /// What they have to do, and cannot yet.
    pub(super) due: VecDeque<Action>,
    /// Posts and pages that are not answered.
    pub(super) unanswered: u32,
    /// When the connection was lost that they are about to have again.
    lost_ns: Option<u64>,
}

impl Person {
    fn new(channels: Vec<u32>) -> Self {
        let (marks, got) = (vec![Mark::default(); channels.len()], vec![0; channels.len()]);
        Self { client: 0, channels, marks, got, is_ready: false, due: VecDeque::new(), unanswered: 0, lost_ns: None }
    }

    pub(super) fn plan(&self, user: usize, resume: Vec<Mark>) -> Plan {
        let channels = self.channels.clone();
        Plan { subscribe: channels.clone(), publish: channels, resume, token: u32::try_from(user).ok() }
    }

    /// The last message that they have of a channel.
    pub(super) fn position(&self, place: usize) -> Mark {
        let mark = self.marks[place];
        Mark { offset: mark.offset + self.got[place], ..mark }
    }

    /// What they can do now: on the way back nothing, and nobody leaves who waits for an answer.
    pub(super) fn next(&mut self) -> Option<Action> {
        let can = self
            .due
            .front()
            .is_some_and(|action| self.is_ready && (action.deed != Deed::Reconnect || self.unanswered == 0));
        if can { self.due.pop_front() } else { None }
    }

    pub(super) fn leave(&mut self, due_ns: u64) {
        (self.is_ready, self.lost_ns) = (false, Some(due_ns));
    }
}

/// Everybody, and what they are to get.
pub(super) struct People {
    pub(super) all: Vec<Person>,
    /// By client: whose it is.
    of_client: Vec<usize>,
    /// By channel: how many are in it.
    members: Vec<u64>,
    /// Channel and number of each post, by when it was due.
    posts: HashMap<u64, (u32, u64)>,
    /// By person and post.
    pub(super) ledger: Ledger,
    /// Deliveries that the posts so far are to give.
    pub(super) expected: u64,
    /// Pages that are waited for, by number.
    pub(super) asked: HashMap<u32, Asked>,
    pub(super) deliveries: Histogram<u64>,
    pub(super) pages: Histogram<u64>,
    pub(super) backs: Histogram<u64>,
    /// Who can do again what could not be done.
    pub(super) free: Vec<usize>,
}

impl People {
    pub(super) fn new(channels: Vec<Vec<u32>>, count: u32) -> Result<Self> {
        let mut members = vec![0; count as usize];
        channels.iter().flatten().for_each(|&channel| members[channel as usize] += 1);
        Ok(Self {
            all: channels.into_iter().map(Person::new).collect(),
            of_client: Vec::new(),
            members,
            posts: HashMap::new(),
            ledger: Ledger::new(0, 0)?,
            expected: 0,
            asked: HashMap::new(),
            deliveries: histogram(),
            pages: histogram(),
            backs: histogram(),
            free: Vec::new(),
        })
    }

    /// A new stretch of time with at most so many posts.
    pub(super) fn begin(&mut self, posts_max: u64) -> Result<()> {
        self.posts.clear();
        self.ledger = Ledger::new(self.all.len() as u64, posts_max)?;
        self.expected = 0;
        [&mut self.deliveries, &mut self.pages, &mut self.backs].into_iter().for_each(|times| times.reset());
        Ok(())
    }

    pub(super) fn connected(&mut self, user: usize, client: usize) {
        if self.of_client.len() <= client {
            self.of_client.resize(client + 1, usize::MAX);
        }
        self.of_client[client] = user;
        self.all[user].client = client;
    }

    /// Everybody who is in the channel is to get it, once: who is away, when they are back.
    pub(super) fn posted(&mut self, user: usize, place: usize, due_ns: u64) {
        let channel = self.all[user].channels[place];
        let number = self.posts.len() as u64;
        self.posts.insert(due_ns, (channel, number));
        self.expected += self.members[channel as usize];
    }

    pub(super) fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.ledger.came())
    }

    /// Nothing is under way, and nothing is left to do.
    pub(super) fn is_quiet(&self) -> bool {
        let is_idle = |person: &Person| person.is_ready && person.due.is_empty() && person.unanswered == 0;
        self.lost() == 0 && self.asked.is_empty() && self.all.iter().all(is_idle)
    }

    /// # Errors
    /// When something was not answered, or somebody got what was not for them.
    pub(super) fn check_answers(&self) -> Result<()> {
        self.ledger.check()?;
        let away = self.all.iter().filter(|person| !person.is_ready).count();
        let unanswered: u32 = self.all.iter().map(|person| person.unanswered).sum();
        let undone: usize = self.all.iter().map(|person| person.due.len()).sum();
        ensure!(
            away == 0 && unanswered == 0 && undone == 0,
            "{away} people did not come back, {unanswered} of their requests were not answered, {undone} actions not done"
        );
        Ok(())
    }

    fn person(&mut self, client: usize) -> Option<(usize, &mut Person)> {
        let user = *self.of_client.get(client)?;
        self.all.get_mut(user).map(|person| (user, person))
    }
}

impl Sink for People {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        let Some(&(channel, number)) = self.posts.get(&intended_ns) else { return self.ledger.enter_strange() };
        let Some((user, person)) = self.person(client) else { return };
        let Some(place) = person.channels.iter().position(|own| *own == channel) else {
            return self.ledger.enter_strange();
        };
        let before = self.ledger.came();
        self.ledger.enter(user as u64, number);
        if self.ledger.came() > before {
            self.all[user].got[place] += 1;
            self.deliveries.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
        }
    }

    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()> {
        let Some((user, person)) = self.person(client) else { return Ok(()) };
        match event {
            Event::Ready => {
                person.is_ready = true;
                if let Some(lost_ns) = person.lost_ns.take() {
                    self.backs.saturating_record((now_ns.saturating_sub(lost_ns) / 1000).max(1));
                }
                self.free.push(user);
            }
            Event::Acknowledged { .. } => {
                ensure!(person.unanswered > 0, "user {user} got an acknowledgement of nothing");
                person.unanswered -= 1;
                self.free.push(user);
            }
            Event::Busy { .. } => {}
            Event::Page { number, messages, offsets } => {
                let asked = self.asked.remove(&number).filter(|asked| asked.user == user);
                let Some(asked) = asked else { anyhow::bail!("user {user} got page {number}, and asked for none") };
                asked.check(messages, offsets)?;
                self.all[user].unanswered -= 1;
                self.pages.saturating_record((now_ns.saturating_sub(asked.due_ns) / 1000).max(1));
                self.free.push(user);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two people, of whom both are in channel 0 and the second in channel 1, too.
    fn people() -> People {
        let mut people = People::new(vec![vec![0], vec![1, 0]], 2).expect("small");
        for user in 0..2 {
            people.connected(user, user);
            people.event(user, Event::Ready, 0).expect("they join");
            people.all[user].marks.iter_mut().for_each(|mark| mark.offset = 100);
        }
        people.begin(10).expect("small");
        people.free.clear();
        people
    }

    fn due(deed: Deed) -> Action {
        Action { deed, place: 0, due_ns: 2_000 }
    }

    #[test]
    fn what_is_due_of_somebody_on_the_way_back_is_done_when_they_are_back() {
        let mut people = people();
        people.all[0].leave(2_000);
        people.all[0].due.extend([due(Deed::Post), due(Deed::Look)]);
        assert!(people.all[0].next().is_none() && !people.is_quiet());
        people.check_answers().expect_err("they are away, and two actions are due");
        people.event(0, Event::Ready, 5_000_000).expect("they are back");
        assert_eq!(people.free, [0]);
        assert_eq!(people.all[0].next().map(|action| action.deed), Some(Deed::Post));
        assert_eq!(people.all[0].next().map(|action| action.deed), Some(Deed::Look));
        assert!(people.backs.len() == 1 && (4_990..=5_005).contains(&people.backs.max()), "{}", people.backs.max());
    }

    #[test]
    fn nobody_leaves_who_waits_for_an_answer() {
        let mut people = people();
        people.all[0].unanswered = 1;
        people.all[0].due.push_back(due(Deed::Reconnect));
        assert!(people.all[0].next().is_none());
        people.event(0, Event::Acknowledged { number: 1 }, 3_000).expect("the answer");
        assert_eq!(people.all[0].next().map(|action| action.deed), Some(Deed::Reconnect));
        people.event(0, Event::Acknowledged { number: 1 }, 3_000).expect_err("an answer to nothing");
    }

    #[test]
    fn a_post_is_for_everybody_in_its_channel_once() {
        let mut people = people();
        people.posted(1, 1, 2_000);
        assert_eq!((people.expected, people.lost()), (2, 2));
        people.delivered(0, 2_000, 3_000);
        people.delivered(0, 2_000, 3_000);
        assert_eq!((people.lost(), people.ledger.again()), (1, 1), "the other one's is still missing");
        assert_eq!(people.all[0].position(0).offset, 101);
        people.delivered(1, 2_000, 3_000);
        assert_eq!((people.lost(), people.all[1].position(1).offset, people.all[1].position(0).offset), (0, 101, 100));
        people.check_answers().expect("all is well");
        people.posted(1, 0, 2_500);
        people.delivered(0, 2_500, 3_000);
        people.check_answers().expect_err("the first is not in channel 1");
    }

    #[test]
    fn a_page_has_to_be_the_one_that_was_asked_for() {
        let newest = Asked { user: 0, before: 0, known: 100, due_ns: 0 };
        let older = Asked { before: 71, ..newest };
        for (asked, messages, offsets, is_right) in [
            (newest, 50, Some((51, 100)), true),
            (newest, 50, Some((60, 109)), true),
            (newest, 0, None, false),
            (newest, 49, Some((52, 100)), false),
            (newest, 50, Some((41, 90)), false),
            (older, 50, Some((21, 70)), true),
            (older, 50, Some((51, 100)), false),
            (older, 50, None, false),
            (older, 20, Some((51, 70)), false),
            (Asked { before: 31, ..newest }, 30, Some((1, 30)), true),
        ] {
            assert_eq!(asked.check(messages, offsets).is_ok(), is_right, "{asked:?} {messages} {offsets:?}");
        }
        let mut people = people();
        people.asked.insert(7, newest);
        people.all[0].unanswered = 1;
        let page = |number| Event::Page { number, messages: 50, offsets: Some((51, 100)) };
        people.event(0, page(8), 1).expect_err("nobody asked for it");
        people.event(1, page(7), 1).expect_err("somebody else asked for it");
        people.asked.insert(7, newest);
        people.event(0, page(7), 1).expect("the page");
        assert!(people.is_quiet() && people.pages.len() == 1);
    }
}
