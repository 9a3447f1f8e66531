//! How Redis is asked: every question within the timeout, and claims that come at once as one.
//!
//! A claim waits until who else is ready to claim in its runtime has come too, then all go in one script, over one connection.
//! In a cluster, where each has its own slot, each is a question of its own; they still go in one piece.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use data_encoding::HEXLOWER;
use redis::{FromRedisValue, from_redis_value};
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::links::Links;
use super::scripts::{Question, Script, Scripts, Word};
use crate::claims::store::{Claim, Claimed, Processed, REMEMBER, StoreFault};
use crate::domain::key::EventKey;

/// Most claims that are asked as one: Redis does nothing else meanwhile, for some 2 ms.
const AT_ONCE: usize = 512;

/// The links, what is asked over them, and claims that are about to be.
pub(super) struct Asking {
    pub(super) links: Links,
    pub(super) scripts: Scripts,
    /// Per runtime that asks. Bounded as the claims in flight are.
    waiting: Mutex<Vec<(Id, Vec<Waiting>)>>,
}

/// One claim that is to be asked with others.
struct Waiting {
    question: Question,
    answer: oneshot::Sender<Result<Claimed, StoreFault>>,
}

impl Asking {
    pub(super) fn new(links: Links) -> Self {
        Self { links, scripts: Scripts::new(), waiting: Mutex::default() }
    }

    /// Asks within the timeout. What was not answered by then may still be on its way, and what is told of it later may go
    /// over another connection: all of them are given up, so that it does not arrive after that.
    pub(super) async fn within<T>(&self, asked: impl Future<Output = Result<T, StoreFault>>) -> Result<T, StoreFault> {
        let timeout = self.links.settings().timeout;
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
            self.links.give_up();
            Err(unanswered(timeout))
        })
    }

    /// Asks one question.
    pub(super) async fn ask<T: FromRedisValue>(&self, script: &Script, question: &Question) -> Result<T, StoreFault> {
        self.within(async { understood(self.links.ask(script, question).await?) }).await
    }

    /// A question about one event.
    pub(super) fn question(&self, route: &str, key: &EventKey) -> Question {
        let prefix = &self.links.settings().key_prefix;
        let (mut slot, mut fingerprint) = ([0; 32], [0; 32]);
        let slot = HEXLOWER.encode_mut_str(&key.slot, &mut slot);
        // Room for the fingerprint too.
        let mut first = String::with_capacity(prefix.len() + route.len() + 70);
        first.extend([prefix, ":", route, ":{", slot, "}"]);
        Question::new(first, HEXLOWER.encode_mut_str(&key.fingerprint, &mut fingerprint))
    }

    /// The mark of a claim's event.
    pub(super) fn marking(&self, claim: &Claim, ttl: Duration) -> Question {
        self.question(&claim.route, &claim.key).with([Word::Owner(claim.owner), Word::Number(millis(ttl))])
    }

    /// Marks all of them at once.
    pub(super) async fn mark_all(&self, marks: &[(Claim, Duration)]) -> Result<(), StoreFault> {
        let questions: Vec<_> = marks.iter().map(|(claim, ttl)| self.marking(claim, *ttl)).collect();
        let asked = self.within(async {
            if self.links.ask_together(&self.scripts.mark_all, questions.iter()).await?.is_some() {
                return Ok(());
            }
            let mut said = Ok(());
            let each = questions.iter().map(|question| self.links.ask(&self.scripts.mark, question));
            all(each, |_, answer| said = answer.map(drop).and(said.clone())).await;
            said
        });
        asked.await
    }

    /// Claims an event, with all that are claimed in this runtime at once.
    pub(super) async fn claim(self: &Arc<Self>, claim: &Claim) -> Result<Claimed, StoreFault> {
        let words = [claim.lease.saturating_add(REMEMBER), REMEMBER].map(|time| Word::Number(millis(time)));
        let question = self.question(&claim.route, &claim.key).with([Word::Owner(claim.owner)]).with(words);
        let (answer, answered) = oneshot::channel();
        if self.wait_with(Waiting { question, answer }) {
            tokio::spawn(self.clone().claim_waiting());
        }
        answered.await.unwrap_or_else(|_| Err(unanswered(self.links.settings().timeout)))
    }

    /// Has a claim wait with the others of its runtime. Says whether it is the first.
    fn wait_with(&self, waiting: Waiting) -> bool {
        let here = Handle::current().id();
        let mut homes = self.lock();
        let Some((_, home)) = homes.iter_mut().find(|(runtime, _)| *runtime == here) else {
            homes.push((here, vec![waiting]));
            return true;
        };
        home.push(waiting);
        home.len() == 1
    }

    fn take_waiting(&self) -> Vec<Waiting> {
        let here = Handle::current().id();
        let mut homes = self.lock();
        let home = homes.iter_mut().find(|(runtime, _)| *runtime == here);
        home.map(|(_, home)| std::mem::take(home)).unwrap_or_default()
    }

    /// Asks for all that wait in this runtime. Whoever is not answered here hears that nobody did.
    async fn claim_waiting(self: Arc<Self>) {
        let waiting = self.take_waiting().into_iter();
        let (questions, mut answers): (Vec<_>, Vec<_>) = waiting.map(|it| (it.question, Some(it.answer))).unzip();
        let mut unheard = Vec::new();
        let mut tell = |at: usize, said| {
            if let Some(answer) = answers.get_mut(at).and_then(Option::take)
                && let Err(Ok(Claimed::New | Claimed::Conflict | Claimed::Lapsed)) = answer.send(said)
            {
                unheard.extend(questions.get(at));
            }
        };
        if let Err(fault) = self.within(self.claim_all(&questions, &mut tell)).await {
            (0..questions.len()).for_each(|at| tell(at, Err(fault.clone())));
        }
        self.let_go(&unheard).await;
    }

    /// Releases what was claimed for those who wait no more, within the timeout for all. They have given it up, but that may
    /// have been heard before the claim was. What cannot be told lapses with its lease.
    async fn let_go(&self, claimed: &[&Question]) {
        if claimed.is_empty() {
            return;
        }
        let releases: Vec<_> = claimed.iter().map(|it| it.of_the_same_owner(released(Processed::Not))).collect();
        let told = self.within(async {
            all(releases.iter().map(|release| self.links.ask(&self.scripts.release, release)), |_, _| ()).await;
            Ok(())
        });
        told.await.unwrap_or_default();
    }

    async fn claim_all(
        &self,
        questions: &[Question],
        mut tell: impl FnMut(usize, Result<Claimed, StoreFault>),
    ) -> Result<(), StoreFault> {
        for (nth, some) in questions.chunks(AT_ONCE).enumerate() {
            let mut tell = |at, said| tell(nth * AT_ONCE + at, said);
            if let Some(letters) = self.claim_as_one(some).await? {
                letters.chars().enumerate().for_each(|(at, letter)| tell(at, claimed(letter)));
            } else {
                all(some.iter().map(|question| self.claim_one(question)), &mut tell).await;
            }
        }
        Ok(())
    }

    /// The answers to all of them; `None`: each is to be asked by itself.
    async fn claim_as_one(&self, questions: &[Question]) -> Result<Option<String>, StoreFault> {
        if questions.len() < 2 {
            return Ok(None);
        }
        let asked = self.links.ask_together(&self.scripts.claim_all, questions.iter()).await?;
        let Some(value) = asked else { return Ok(None) };
        let letters: String = understood(value)?;
        if letters.len() != questions.len() {
            return Err(StoreFault::Failed(format!("redis answered {letters:?} to {} claims", questions.len())));
        }
        Ok(Some(letters))
    }

    async fn claim_one(&self, question: &Question) -> Result<Claimed, StoreFault> {
        let letter: String = understood(self.links.ask(&self.scripts.claim, question).await?)?;
        claimed(letter.chars().next().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Id, Vec<Waiting>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn claimed(letter: char) -> Result<Claimed, StoreFault> {
    match letter {
        'n' => Ok(Claimed::New),
        'd' => Ok(Claimed::Duplicate),
        'o' => Ok(Claimed::Conflict),
        'i' => Ok(Claimed::InFlight),
        'l' => Ok(Claimed::Lapsed),
        other => Err(StoreFault::Failed(format!("redis answered {other:?} to a claim"))),
    }
}

/// What a release says besides whose it is.
pub(super) fn released(processed: Processed) -> [Word; 2] {
    let processed = match processed {
        Processed::Not => "not",
        Processed::Perhaps => "perhaps",
    };
    [Word::Text(processed), Word::Number(millis(REMEMBER))]
}

fn understood<T: FromRedisValue>(value: redis::Value) -> Result<T, StoreFault> {
    from_redis_value(value).map_err(|error| StoreFault::Failed(format!("redis: {error}")))
}

pub(super) fn unanswered(timeout: Duration) -> StoreFault {
    StoreFault::Failed(format!("redis did not answer within {timeout:?}"))
}

/// Waits for all of them, asked at once; tells of each as its answer comes.
async fn all<A: Future>(asked: impl Iterator<Item = A>, mut tell: impl FnMut(usize, A::Output)) {
    let mut asked: Vec<_> = asked.map(Box::pin).enumerate().collect();
    poll_fn(|cx| {
        asked.retain_mut(|(at, asked)| match asked.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                tell(*at, answer);
                false
            }
            Poll::Pending => true,
        });
        if asked.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4)
}
