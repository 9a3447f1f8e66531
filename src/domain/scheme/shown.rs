//! Secrets that the sender shows: a token that every item of a batch must carry.
//!
//! Nothing is computed over the request, and nothing of it is proved but that its sender knew the secret.

use super::json::{self, Field};
use super::reading::{Reading, scalar_of};
use super::signature::Place;
use super::verify::{Found, Keys, same_secret};
use super::{Each, Scheme};
use crate::domain::refusal::Refusal;

/// Most items of a batch that are looked at: each costs a comparison and no signature.
const MAX_ITEMS: usize = 1000;

impl Scheme {
    /// Every item must show one of the secrets.
    pub(super) fn prove_token_items(
        &self,
        each: &Each,
        reading: &Reading<'_>,
        keys: &Keys<'_>,
    ) -> Result<Found<'static>, Refusal> {
        self.check_required(reading.subject.headers)?;
        let items = json::elements(reading.subject.body, &each.array, MAX_ITEMS).ok_or(Refusal::SignatureMissing)?;
        if items.len() > MAX_ITEMS {
            return Err(Refusal::SignatureRepeated);
        }
        let mut first = None;
        for item in items {
            let values = json::extract(item, &each.pointers);
            let shown = self.item_token(&values)?;
            let shown = shown.strip_prefix(self.notation.prefix.as_slice()).ok_or(Refusal::SignatureMalformed)?;
            let found = same_secret(shown, keys)?;
            first.get_or_insert(found);
        }
        first.ok_or(Refusal::SignatureMissing)
    }

    fn item_token<'v>(&self, values: &'v [Field]) -> Result<&'v [u8], Refusal> {
        match &self.place {
            Place::Item(place) => {
                let token = scalar_of(values, *place).ok_or(Refusal::SignatureMissing)?;
                Ok(token.as_text().as_bytes())
            }
            Place::Headers(_) | Place::HeadersLike(_) | Place::Json(_) | Place::Form(_) => {
                Err(Refusal::SignatureMissing)
            }
        }
    }
}
