//! Backups of one store that lie beside each other, and how many may be under way.
//!
//! They do not look inside files.

use super::bounds::{DAY, back_up, nobody, restored, store_with};
use super::*;
use crate::engine::erase::Request;
use crate::engine::restore::{self, Applied};

#[tokio::test]
async fn no_more_backups_begin_than_may_be_under_way() {
    let store = Store::defined().await;
    let begin = || {
        let engine = store.engine().clone();
        tokio::spawn(async move { engine.begin_backup().await.map(|begun| begun.id) })
    };
    let begun: Vec<_> = (0..6).map(|_| begin()).collect();
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    for begun in begun {
        match begun.await.unwrap() {
            Ok(id) => held.push(id),
            Err(problem) => refused.push(problem.code),
        }
    }
    assert_eq!((held.len(), refused), (4, vec![Code::Overloaded; 2]));
    assert!(store.engine().end_backup(held[0]));
    assert!(begin().await.unwrap().is_ok());
    assert!(begin().await.unwrap().is_err());
}

#[tokio::test]
async fn backups_of_every_past_are_asked_who_was_erased() {
    let store = store_with("tier = \"memory\"").await;
    let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
    let rows = ["u1", "u2"].map(|user| (user, Some(50), age(1), Cell::Absent));
    store.push(&rows).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    let first = back_up(&store, to.path()).await;
    // What is restored goes another way, with a higher epoch; so does the first store.
    let (other, _) = restored(&first, &store.clock);
    other.push(&[("u2", Some(60), age(2), Cell::Absent)]).await.unwrap();
    let chosen = back_up(&other, to.path()).await;
    store.clock.advance(Span::from_seconds(1));
    let erased = store.engine().erase(user, &user_key("u1")).await.unwrap();
    let asked = back_up(&store, to.path()).await;
    store.clock.advance(Span::from_seconds(1));
    let (third, outcome) = restored(&chosen, &store.clock);
    let (sequence, requested) = (erased.sequence, erased.requested);
    let request = Request { project: PROJECT, sequence, requested };
    assert_eq!(outcome.erased, [Applied { by: asked.clone(), request }]);
    assert_eq!(outcome.asked, std::slice::from_ref(&asked));
    assert_eq!(third.now("u1"), nobody());
    assert_eq!(third.now("u2")[0], present(Value::Int32(2)));
    // Whoever comes back there is not erased by what was heard already.
    store.clock.advance(Span::from_seconds(1));
    third.push(&[("u1", None, age(3), Cell::Absent)]).await.unwrap();
    let last = back_up(&third, to.path()).await;
    let (fourth, outcome) = restored(&last, &store.clock);
    assert_eq!((outcome.erased, outcome.asked), (Vec::new(), vec![chosen, asked]));
    assert_eq!(fourth.now("u1")[0], present(Value::Int32(3)));
    // Unless it happens again.
    store.clock.advance(Span::from_seconds(1));
    store.push(&[("u1", None, age(4), Cell::Absent)]).await.unwrap();
    store.engine().erase(user, &user_key("u1")).await.unwrap();
    let again = back_up(&store, to.path()).await;
    let (fifth, outcome) = restored(&last, &store.clock);
    assert_eq!(outcome.erased.len(), 1);
    assert_eq!(outcome.erased[0].by, again);
    assert_eq!(fifth.now("u1"), nobody());
}

#[tokio::test]
async fn a_damaged_backup_that_may_know_of_erasures_is_named_and_can_be_moved_away() {
    let store = store_with("tier = \"memory\"").await;
    let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
    store.push(&[("u1", Some(50), age(1), Cell::Absent)]).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    let first = back_up(&store, to.path()).await;
    store.engine().erase(user, &user_key("u1")).await.unwrap();
    let second = back_up(&store, to.path()).await;
    let manifest = second.join("MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let data = tempfile::tempdir().unwrap();
    let when = (store.clock.now(), Span::from_seconds(7 * DAY));
    let refused = restore::run(&RealDisk, &first, data.path(), when, &mut |_, _| {});
    let said = refused.unwrap_err().to_string();
    let (first_path, second_path) = (first.display(), second.display());
    for words in [
        format!("{second_path} cannot be read"),
        format!("erased after {first_path} was taken, and they would come back"),
        "move it out of the directory and restore again".to_owned(),
    ] {
        assert!(said.contains(&words), "{said}");
    }
    std::fs::create_dir(to.path().join("aside")).unwrap();
    std::fs::rename(&second, to.path().join("aside/damaged")).unwrap();
    let (old, outcome) = restored(&first, &store.clock);
    assert_eq!((outcome.erased, outcome.asked), (Vec::new(), Vec::new()));
    assert_eq!(old.now("u1")[0], present(Value::Int32(1)));
}
