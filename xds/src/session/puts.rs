//! What a response puts, while it is collected. A first answer is mostly the one that another stream has: as long as it is,
//! nothing is collected but how far.

use std::ops::Deref;
use std::sync::Arc;

use crate::resource::Resource;

#[derive(Debug)]
pub(super) enum Puts {
    /// The first so many of that list.
    Of(Arc<[Arc<Resource>]>, usize),
    Own(Vec<Arc<Resource>>),
}

impl Default for Puts {
    fn default() -> Self {
        Puts::Own(Vec::new())
    }
}

impl Puts {
    /// None yet; perhaps those of this list.
    pub fn like(list: Option<Arc<[Arc<Resource>]>>) -> Self {
        list.map_or_else(Puts::default, |list| Puts::Of(list, 0))
    }

    pub fn push(&mut self, resource: Arc<Resource>) {
        match self {
            Puts::Of(list, count) if list.get(*count).is_some_and(|next| Arc::ptr_eq(next, &resource)) => *count += 1,
            Puts::Of(..) => {
                let mut own = self.to_vec();
                own.push(resource);
                *self = Puts::Own(own);
            }
            Puts::Own(own) => own.push(resource),
        }
    }

    /// The list itself, if it is all of it.
    pub fn into_list(self) -> Arc<[Arc<Resource>]> {
        match self {
            Puts::Of(list, count) if count == list.len() => list,
            Puts::Of(list, count) => list.iter().take(count).cloned().collect(),
            Puts::Own(own) => own.into(),
        }
    }
}

impl Deref for Puts {
    type Target = [Arc<Resource>];

    fn deref(&self) -> &Self::Target {
        match self {
            Puts::Of(list, count) => list.get(..*count).unwrap_or_default(),
            Puts::Own(own) => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind;

    fn resources(count: usize) -> Vec<Arc<Resource>> {
        (0..count).map(|number| Arc::new(Resource::new(Kind::Cluster, number.to_string(), "body".into()))).collect()
    }

    fn put(list: &Arc<[Arc<Resource>]>, resources: &[Arc<Resource>]) -> Arc<[Arc<Resource>]> {
        let mut puts = Puts::like(Some(Arc::clone(list)));
        for (count, resource) in resources.iter().enumerate() {
            puts.push(Arc::clone(resource));
            assert_eq!(puts.len(), count + 1);
        }
        assert!(puts.iter().zip(resources).all(|(one, other)| Arc::ptr_eq(one, other)));
        let made = puts.into_list();
        assert!(
            made.len() == resources.len() && made.iter().zip(resources).all(|(one, other)| Arc::ptr_eq(one, other))
        );
        made
    }

    #[test]
    fn a_list_is_taken_only_if_it_is_all_of_it_and_nothing_else() {
        let all = resources(4);
        let list: Arc<[Arc<Resource>]> = all.clone().into();
        assert!(Arc::ptr_eq(&put(&list, &all), &list));
        let (more, equal) = (resources(5), resources(4));
        let others = [
            vec![],
            all[..3].to_vec(),
            all[1..].to_vec(),
            [&all[..], &more[4..]].concat(),
            [&all[..2], &equal[2..]].concat(),
            [&all[..2], &all[3..]].concat(),
        ];
        for other in others {
            assert!(!Arc::ptr_eq(&put(&list, &other), &list), "{}", other.len());
        }
    }
}
