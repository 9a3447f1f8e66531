//! `config init`, `show`, `schema`: a configuration to start from, the one that counts, and what one may look like.

use super::args::{Config, ConfigWhat, Form};
use super::output::put;
use super::{Context, Exit, Outcome};
use crate::config::{self, EXAMPLE, Layers, ShowFormat, ShowOrigins};

/// `hookgate config`.
pub(super) fn config(context: &Context, asked: Config) -> Outcome {
    match asked.what {
        ConfigWhat::Init => put(EXAMPLE.as_bytes())?,
        ConfigWhat::Schema => put(format!("{:#}\n", config::schema()).as_bytes())?,
        ConfigWhat::Show { origin, format } => {
            let origins = if origin { ShowOrigins::Yes } else { ShowOrigins::No };
            let format = match format {
                Form::Toml => ShowFormat::Toml,
                Form::Json => ShowFormat::Json,
            };
            let shown = Layers::read(context.file.as_deref(), &context.environment)
                .and_then(|layers| config::show(&layers, format, origins))
                .map_err(|faults| context.refused(&faults))?;
            put(shown.as_bytes())?;
        }
    }
    Ok(Exit::Ok)
}
