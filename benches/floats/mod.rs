//! A view `profile` of float64 features, and rows for it.
//!
//! It does not know where the store is, nor what is measured.

use larder::engine::Engine;
use larder::engine::writes::WriteBatch;
use larder::ids::{ProjectId, Slot};
use larder::value::cell::{CellRef, ValueRef};

/// The view with features `f0`, `f1`, ..., of an entity `user` whose key is an int64.
pub(crate) fn definitions(features: u16) -> String {
    let mut text = "[entity.user]\njoin_keys = [\"user_id:int64\"]\n\n\
                    [view.profile]\nentity = \"user\"\n[view.profile.features]\n"
        .to_owned();
    for feature in 0..features {
        text.push_str(&format!("f{feature} = \"float64\"\n"));
    }
    text
}

/// One whole row for each user, which happens when it arrives.
pub(crate) fn batch(
    engine: &Engine,
    features: u16,
    users: impl Iterator<Item = u64>,
) -> WriteBatch {
    let registry = engine.registry();
    let view = registry.view_named(ProjectId(0), "profile").expect("it was defined");
    let mut batch = WriteBatch::new(&registry, engine.limits());
    for user in users {
        batch.start(view);
        for slot in 0..features {
            let value = user as f64 / f64::from(slot + 3);
            batch.set(Slot(slot), CellRef::Value(ValueRef::Float64(value)));
        }
        batch.end(&user.to_be_bytes(), None).expect("a small row");
    }
    batch
}
