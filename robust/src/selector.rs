//! Which objects a list or a watch is about, said twice: as a query for the
//! server, and as a predicate of our own to judge its answer by.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rng::Rng;

/// The label that selectors look at.
pub const LABEL: &str = "tier";
/// Its values.
pub const TIERS: [&str; 2] = ["a", "b"];
/// Values of `spec.color`.
pub const COLORS: [&str; 3] = ["red", "blue", "green"];
/// Values of `status.phase`.
pub const PHASES: [&str; 2] = ["Pending", "Running"];

/// A selection of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// All objects.
    All,
    /// Label equals.
    Tier(String),
    /// Label differs, or is absent.
    TierNot(String),
    /// Label is there, whatever it says.
    HasTier,
    /// Label is absent.
    NoTier,
    /// `spec.color` equals.
    Color(String),
    /// `spec.color` differs.
    ColorNot(String),
    /// `status.phase` equals.
    Phase(String),
    /// `metadata.name` equals.
    Name(String),
    /// Label and color equal.
    TierAndColor(String, String),
}

impl Selector {
    /// Any selector; every third selects all.
    pub fn draw(rng: &mut Rng, names: &[String]) -> Self {
        let mut text = |from: &[&str]| (*rng.pick(from).unwrap_or_default()).to_owned();
        let (tier, color, phase) = (text(&TIERS), text(&COLORS), text(&PHASES));
        let name = rng.pick(names).unwrap_or_default();
        rng.weighted(&[
            (6, Self::All),
            (2, Self::Tier(tier.clone())),
            (2, Self::TierNot(tier.clone())),
            (1, Self::HasTier),
            (1, Self::NoTier),
            (2, Self::Color(color.clone())),
            (1, Self::ColorNot(color.clone())),
            (1, Self::Phase(phase)),
            (1, Self::Name(name)),
            (1, Self::TierAndColor(tier, color)),
        ])
        .unwrap_or(Self::All)
    }

    /// As parts of a query, percent-encoded.
    #[must_use]
    pub fn query(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Tier(tier) => format!("&labelSelector={LABEL}%3D{tier}"),
            Self::TierNot(tier) => format!("&labelSelector={LABEL}%20notin%20({tier})"),
            Self::HasTier => format!("&labelSelector={LABEL}"),
            Self::NoTier => format!("&labelSelector=!{LABEL}"),
            Self::Color(color) => format!("&fieldSelector=spec.color%3D{color}"),
            Self::ColorNot(color) => format!("&fieldSelector=spec.color!%3D{color}"),
            Self::Phase(phase) => format!("&fieldSelector=status.phase%3D{phase}"),
            Self::Name(name) => format!("&fieldSelector=metadata.name%3D{name}"),
            Self::TierAndColor(tier, color) => {
                format!("&labelSelector={LABEL}%3D{tier}&fieldSelector=spec.color%3D{color}")
            }
        }
    }

    /// Whether it selects this object.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let (tier, color) = (text("/metadata/labels/tier"), text("/spec/color"));
        match self {
            Self::All => true,
            Self::Tier(wanted) => tier == Some(wanted),
            Self::TierNot(unwanted) => tier != Some(unwanted),
            Self::HasTier => tier.is_some(),
            Self::NoTier => tier.is_none(),
            Self::Color(wanted) => color == Some(wanted),
            Self::ColorNot(unwanted) => color != Some(unwanted),
            Self::Phase(wanted) => text("/status/phase") == Some(wanted),
            Self::Name(wanted) => text("/metadata/name") == Some(wanted),
            Self::TierAndColor(wanted, hue) => tier == Some(wanted) && color == Some(hue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_absent_label_matches_what_excludes_a_value() {
        let bare = json!({"metadata": {"name": "x"}, "spec": {"color": "red"}});
        let tiered =
            json!({"metadata": {"name": "y", "labels": {"tier": "a"}}, "spec": {"color": "blue"}});
        let both = |selector: Selector| (selector.matches(&bare), selector.matches(&tiered));
        assert_eq!(both(Selector::All), (true, true));
        assert_eq!(both(Selector::Tier("a".into())), (false, true));
        assert_eq!(both(Selector::TierNot("a".into())), (true, false));
        assert_eq!(both(Selector::HasTier), (false, true));
        assert_eq!(both(Selector::NoTier), (true, false));
        assert_eq!(both(Selector::Color("red".into())), (true, false));
        assert_eq!(both(Selector::ColorNot("red".into())), (false, true));
        assert_eq!(both(Selector::Name("y".into())), (false, true));
        assert_eq!(both(Selector::Phase("Running".into())), (false, false));
        let mixed = Selector::TierAndColor("a".into(), "red".into());
        assert_eq!(both(mixed), (false, false));
    }
}
