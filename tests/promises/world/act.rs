//! What the scripted application does with a request it has read. It holds no socket; `app` performs it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// Headers besides `Content-Length`.
        headers: Vec<(String, String)>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Something else, later.
    After(Duration, Box<Act>),
    /// Something else, once the gate is open.
    Behind(Gate, Box<Act>),
    /// Nothing, ever; the connection stays open.
    Never,
    /// The connection ends without an answer.
    HangUp,
    /// The connection is reset without an answer.
    Reset,
    /// The application closes its half of the connection and goes on reading.
    HalfClose,
    /// A status line and half of the promised body, then the end of the connection.
    BrokenBody(u16),
    /// These bytes, one after each pause, then the end of the connection.
    Trickle(Vec<u8>, Duration),
    /// Some bytes at once, others one after each pause, then the end of the connection.
    AtOnceThen(Vec<u8>, Vec<u8>, Duration),
    /// These bytes as they are, then the end of the connection.
    Raw(Vec<u8>),
}

/// What happens to a request of which only the head has been read.
#[derive(Clone, Debug)]
pub(crate) enum Early {
    /// The connection is reset.
    Reset,
    /// An answer with this status and these bytes is sent, and then the body is read to its end.
    Answer(u16, Vec<u8>),
}

/// An answer with this status and a small JSON body.
pub(crate) fn answer(status: u16) -> Act {
    Act::Answer {
        status,
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: format!("{{\"app\":{status}}}").into_bytes(),
    }
}

/// 200.
pub(crate) fn accept() -> Act {
    answer(200)
}

impl Act {
    /// The same with one more header; only for answers.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// The same with another body; only for answers.
    pub(crate) fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        if let Self::Answer { body, .. } = &mut self {
            *body = bytes.into();
        }
        self
    }

    /// The same, later.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self::After(time, Box::new(self))
    }

    /// The same, once `gate` is open.
    pub(crate) fn behind(self, gate: &Gate) -> Self {
        Self::Behind(gate.clone(), Box::new(self))
    }
}

/// A gate that holds requests back until the test opens it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub(crate) fn closed() -> Self {
        Self::default()
    }

    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, for a slice of time. Returns whether it is.
    pub(crate) fn wait(&self, slice: Duration) -> bool {
        let deadline = Instant::now() + slice;
        let mut open = self.0.0.lock().unwrap();
        while !*open && Instant::now() < deadline {
            open = self.0.1.wait_timeout(open, slice).unwrap().0;
        }
        *open
    }
}
