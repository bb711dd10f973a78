//! Text that must never be shown.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A secret, or something that may hold one, such as the URL of a database. `Debug` hides it and there is no
/// `Display`, so that no log, error or table shows it by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for Hidden {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_hidden_wherever_it_is_printed() {
        let text = Some(Hidden::from("geheim".to_string()));
        assert!(!format!("{text:?} {text:#?}").contains("geheim"));
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"geheim\"", "a private file has it");
    }
}
