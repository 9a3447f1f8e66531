//! How a question is sent over one connection: with the word before it that a moving slot needs, and behind it, in the same
//! piece, the wait for replicas where what it writes must have been copied.

use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, from_redis_value};

use super::asking::millis;
use super::connect::Link;
use super::scripts::By;
use super::settings::Settings;
use crate::claims::store::StoreFault;

/// Whether a server is asked about a slot that is on its way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    Yes,
    No,
}

/// How many replicas must have what a question wrote before its answer counts, and how long the server waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    wanted: u32,
    patience: Duration,
}

impl Copies {
    pub(super) const NONE: Self = Self { wanted: 0, patience: Duration::ZERO };

    /// As many as claims need by these settings.
    pub(super) fn of_claims(settings: &Settings) -> Self {
        Self { wanted: settings.wait_replicas, patience: settings.timeout / 2 }
    }
}

/// What a server answered, and how many replicas had it then.
pub(super) struct Answered {
    value: Value,
    missed: Option<(u32, u32)>,
}

impl Answered {
    /// The answer, if as many replicas have what was written as were asked for.
    pub(super) fn copied(self) -> Result<Value, StoreFault> {
        match self.missed {
            None => Ok(self.value),
            Some((copies, wanted)) => {
                Err(StoreFault::Failed(format!("{copies} of {wanted} replicas of redis took a claim in time")))
            }
        }
    }
}

/// Sends what names a script. A server that does not know it is given it.
pub(super) async fn put(
    link: &Link,
    question: impl Fn(By) -> Cmd,
    asking: Asking,
    copies: Copies,
) -> Result<Answered, RedisError> {
    // Who is asked on the way is given the script at once: ASKING counts for one command.
    let by = if asking == Asking::Yes { By::Text } else { By::Hash };
    match send(link, question(by), asking, copies).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            send(link, question(By::Text), asking, copies).await
        }
        answer => answer,
    }
}

async fn send(link: &Link, question: Cmd, asking: Asking, copies: Copies) -> Result<Answered, RedisError> {
    let mut connection = link.connection.clone();
    if (asking, copies.wanted) == (Asking::No, 0) {
        let value = connection.send_packed_command(&question).await?.extract_error()?;
        return Ok(Answered { value, missed: None });
    }
    let mut piece = redis::pipe();
    if asking == Asking::Yes {
        piece.cmd("ASKING");
    }
    piece.add_command(question);
    if copies.wanted > 0 {
        piece.cmd("WAIT").arg(copies.wanted).arg(millis(copies.patience));
    }
    // Answers as they are; ASKING's own is left out.
    let (before, answers) = (usize::from(asking == Asking::Yes), 1 + usize::from(copies.wanted > 0));
    let mut answers = connection.send_packed_commands(&piece, before, answers).await?.into_iter();
    let nothing = || RedisError::from((ErrorKind::UnexpectedReturnType, "a question was not answered"));
    let value = answers.next().ok_or_else(nothing)?.extract_error()?;
    if copies.wanted == 0 {
        return Ok(Answered { value, missed: None });
    }
    let had: u32 = from_redis_value(answers.next().ok_or_else(nothing)?.extract_error()?)?;
    Ok(Answered { value, missed: (had < copies.wanted).then_some((had, copies.wanted)) })
}
