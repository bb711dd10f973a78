//! Listings by keyset pages.

use holdfast::db::{Failure, listing, namespace};
use holdfast::types::path::walk_order;

use crate::both_backends;
use crate::fixture::*;

async fn pages(db: &TestDb, path: &str, limit: usize, recursive: bool) -> Vec<String> {
    let (mut all, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let (path, cursor) = (p(path), after.clone());
        let page = db
            .db
            .read(move |connection| {
                listing::page(connection, &path, cursor.as_deref(), limit, recursive).map_err(Failure::into_error)
            })
            .await
            .unwrap();
        assert!(page.len() <= limit);
        let full = page.len() == limit;
        all.extend(page.into_iter().map(|row| row.path));
        if !full {
            return all;
        }
        after = all.last().cloned();
    }
}

both_backends! {
    async fn every_page_size_gives_the_same_list_in_the_order_of_bytes(db: TestDb) {
        // Sorting whole strings, or by a locale, would order these otherwise.
        let dirs = ["/a", "/a/b", "/a-b", "/B", "/ä", "/a/b/c", "/a.b/x", "/z z", "/-", "/a/b!"];
        for dir in dirs { db.mkdirs(dir).await; }
        let mut want: Vec<String> = dirs.iter().map(|dir| dir[1..].to_string()).chain(["a.b".into()]).collect();
        want.sort_by(|a, b| walk_order(a, b));
        for limit in [1, 2, 3, 100] {
            assert_eq!(pages(&db, "/", limit, true).await, want, "pages of {limit}");
        }
        assert_eq!(pages(&db, "/", 2, false).await, ["-", "B", "a", "a-b", "a.b", "z z", "ä"]);
        assert_eq!(pages(&db, "/a", 1, true).await, ["b", "b/c", "b!"]);
    }

    async fn a_cursor_whose_entry_is_gone_goes_on_behind_it(db: TestDb) {
        for dir in ["/a/x", "/b/y", "/c"] { db.mkdirs(dir).await; }
        db.rm("/b", true).await.unwrap();
        let page = db.db.read(|connection| listing::page(connection, &p("/"), Some("b/x"), 10, true).map_err(Failure::into_error)).await.unwrap();
        assert_eq!(page.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), ["c"]);
    }

    async fn directories_with_more_entries_than_one_query_fetches(db: TestDb) {
        db.servers(2).await;
        db.mkdir("/d").await.unwrap();
        let uploads = (0..700).map(|n| upload(&format!("/d/{n:04}"), "x")).collect();
        commit_all(&db.db, uploads).await;
        let all = pages(&db, "/", 333, true).await;
        assert_eq!(all.len(), 701);
        assert!(all.is_sorted());
    }

    async fn the_number_of_copies_is_inherited_from_the_nearest_directory(db: TestDb) {
        db.mkdirs("/a/b/c").await;
        db.change(|changes| namespace::set_replication(changes, &p("/a/b"), Some(5))).await.unwrap();
        let rows = db.db.read(|connection| listing::page(connection, &p("/"), None, 10, true).map_err(Failure::into_error)).await.unwrap();
        let copies: Vec<i32> = rows.iter().map(|row| row.copies_wanted).collect();
        assert_eq!(copies, [2, 5, 5]);
    }
}
