//! Explaining refusals with all that only the roof knows: the routes in operation and the built-in providers. Computes;
//! called off the async threads.

use std::sync::Arc;

use super::control::Core;
use crate::admin::Explained;
use crate::config::builtin;
use crate::domain::explain::{Case, LeftOut, explain};
use crate::domain::route::Route;
use crate::domain::scheme::Scheme;
use crate::gateway::KeptRefusal;

/// The schemes of the built-in providers, as what a request may turn out to be.
#[must_use]
pub fn candidates() -> Vec<(String, Scheme)> {
    let compiled = |name: &'static str| {
        let scheme = Scheme::compile(&builtin::scheme(name)?).ok()?;
        Some((name.to_owned(), scheme))
    };
    builtin::names().filter_map(compiled).collect()
}

impl Core {
    /// Explains a refusal that is kept, as of the moment when it was checked, with the configuration in operation now.
    pub(super) fn explain_refusal(&self, request_id: Option<&str>) -> Option<Explained> {
        let kept: Arc<KeptRefusal> = self.gateway.refusal(request_id)?;
        let current = self.current.load();
        let route = current.routes.iter().find(|route| route.name == kept.route)?;
        let others: Vec<&Route> = current.routes.iter().map(|route| &**route).collect();
        let left_out = (!kept.has_its_body()).then_some(LeftOut { refusal: kept.refusal, bytes: kept.body_bytes });
        let explanation = explain(&Case {
            inbound: &kept.inbound,
            route,
            others: &others,
            candidates: &candidates(),
            now: kept.checked_at,
            left_out,
        });
        Some(Explained { request_id: kept.request_id.clone(), explanation })
    }
}
