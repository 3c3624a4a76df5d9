//! What Envoys said of the routes that they refused, until it is clear whether others took them.

use std::collections::BTreeMap;

use domain::Generation;
use xds::Name;

/// Names of which a text is kept, some kilobytes each.
const REFUSALS_MAX: usize = 1_000;

/// The last text of each name. Of those that others had taken long before nothing more is heard, so the oldest makes room.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    texts: BTreeMap<Name, Refusal>,
    order: BTreeMap<u64, Name>,
    next: u64,
}

#[derive(Debug)]
struct Refusal {
    turn: u64,
    generation: Generation,
    text: String,
}

impl Refusals {
    pub fn insert(&mut self, name: &Name, generation: Generation, text: String) {
        self.remove(name);
        if self.texts.len() >= REFUSALS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.texts.remove(&oldest);
        }
        let turn = self.next;
        self.next += 1;
        self.order.insert(turn, name.clone());
        self.texts.insert(name.clone(), Refusal { turn, generation, text });
    }

    /// The text of this generation of a name. None of it is kept.
    pub fn take(&mut self, name: &Name, generation: Generation) -> Option<String> {
        self.remove(name).filter(|refusal| refusal.generation == generation).map(|refusal| refusal.text)
    }

    pub fn forget(&mut self, name: &Name) {
        self.remove(name);
    }

    fn remove(&mut self, name: &Name) -> Option<Refusal> {
        let refusal = self.texts.remove(name)?;
        self.order.remove(&refusal.turn);
        Some(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        Name::from(format!("m{number}"))
    }

    #[test]
    fn the_oldest_text_makes_room_and_a_name_has_one() {
        let mut refusals = Refusals::default();
        // The first in the order of names, so that no order of names passes.
        let newest = Name::from("a");
        for number in 0..REFUSALS_MAX {
            refusals.insert(&name(number), Generation(1), format!("{number}"));
        }
        refusals.insert(&name(0), Generation(2), "again".to_owned());
        refusals.insert(&newest, Generation(1), "newest".to_owned());
        refusals.insert(&name(REFUSALS_MAX), Generation(1), "one more".to_owned());
        assert_eq!((refusals.texts.len(), refusals.order.len()), (REFUSALS_MAX, REFUSALS_MAX));
        assert_eq!(refusals.take(&newest, Generation(1)).as_deref(), Some("newest"));
        assert_eq!(refusals.take(&name(0), Generation(2)).as_deref(), Some("again"), "it was refused anew");
        assert_eq!(refusals.take(&name(1), Generation(1)), None, "the oldest");
        assert_eq!(refusals.take(&name(2), Generation(1)), None, "the next");
        assert_eq!(refusals.take(&name(3), Generation(2)), None, "of another generation");
        refusals.forget(&name(4));
        assert_eq!(refusals.take(&name(4), Generation(1)), None);
        assert_eq!(refusals.texts.len(), refusals.order.len());
    }
}
