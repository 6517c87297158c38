//! Lists: whole, in pages, as tables, and one that is larger than anyone wants.

use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hyper::Method;

use super::{FEW, Plan, settle};
use crate::client::{Connection, JSON, TABLE};
use crate::figure::{Figure, Start, mib, thousands};

/// Objects of a page, as kubectl asks for them.
const PAGE: usize = 500;

/// How far from either end of a list its metadata can stand.
const EDGE: usize = 2_000;

impl Plan {
    pub(super) async fn lists(&self) -> Result<()> {
        let few = (self.sizes.few, self.kind.in_namespace(FEW));
        let many = (self.sizes.many, self.kind.everywhere());
        for (objects, path) in [&few, &many] {
            let count = thousands(*objects);
            for (name, query) in [("consistent", ""), ("at 0", "?resourceVersion=0")] {
                let scenario = format!("list of {count}, {name}");
                let path = format!("{path}{query}");
                self.measure(&scenario, self.list(&scenario, &path, JSON))
                    .await;
            }
        }
        let scenario = format!("list of {} in pages of {PAGE}", thousands(many.0));
        self.measure(&scenario, self.pages(&scenario, &many.1))
            .await;
        for (objects, path) in [&few, &many] {
            let scenario = format!("table of {}", thousands(*objects));
            self.measure(&scenario, self.list(&scenario, path, TABLE))
                .await;
        }
        Ok(())
    }

    async fn list(&self, scenario: &str, path: &str, accept: &str) -> Result<Figure> {
        self.timed(scenario, 1, |connection, _, _| async move {
            connection.count(path, accept).await.map(drop)
        })
        .await
    }

    /// One operation is the walk over all pages.
    async fn pages(&self, scenario: &str, path: &str) -> Result<Figure> {
        self.timed(scenario, 1, |connection, _, _| walk(connection, path))
            .await
    }

    /// What one consistent list of everything takes beyond what the server had: the
    /// highest mark of its resident memory since just before, as the kernel keeps it.
    /// Memory from an earlier list would hide it: this wants a server that was just
    /// started and has listed nothing yet.
    pub(super) async fn huge(&self) -> Result<()> {
        self.await_ready().await?;
        settle().await;
        let count = thousands(self.sizes.most);
        let scenario = format!("extra memory of a list of {count}");
        self.measure(&scenario, self.huge_list(&scenario)).await;
        let scenario = format!("list of {count}, consistent");
        let path = self.kind.everywhere();
        self.measure(&scenario, self.list(&scenario, &path, JSON))
            .await;
        Ok(())
    }

    async fn huge_list(&self, scenario: &str) -> Result<Figure> {
        let connection = self.target.connect().await?;
        let path = self.kind.everywhere();
        self.server.forget_peak()?;
        let before = self.server.resident();
        let start = Start::now(&self.server);
        let begun = Instant::now();
        connection.count(&path, JSON).await?;
        let mut figure = start.figure(scenario.to_owned(), vec![begun.elapsed()]);
        figure.per_second = None;
        figure.memory_mib = Some(mib(self.server.peak().saturating_sub(before)));
        Ok(figure)
    }
}

async fn walk(connection: Connection, path: &str) -> Result<()> {
    let mut query = format!("{path}?limit={PAGE}");
    loop {
        let page = connection.call(Method::GET, &query, Bytes::new()).await?;
        match next_page(&page)? {
            Some(token) => query = format!("{path}?limit={PAGE}&continue={token}"),
            None => return Ok(()),
        }
    }
}

/// The continue token of a list. To read the whole list for it would cost more than
/// all the rest of the driver; its metadata stands before the items or after them.
fn next_page(list: &[u8]) -> Result<Option<String>> {
    const FIELD: &str = "\"continue\":\"";
    let head = list.get(..EDGE.min(list.len())).unwrap_or_default();
    let tail = list
        .get(list.len().saturating_sub(EDGE)..)
        .unwrap_or_default();
    for edge in [head, tail] {
        let text = String::from_utf8_lossy(edge);
        if let Some((_, rest)) = text.split_once(FIELD) {
            let (token, _) = rest.split_once('"').context("a token without an end")?;
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=.~".contains(letter);
            anyhow::ensure!(token.chars().all(plain), "a token that wants escaping");
            return Ok((!token.is_empty()).then(|| token.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_before_and_after_the_items() {
        let items = format!("\"items\":[{}]", "\"x\",".repeat(2_000));
        let meta = "\"metadata\":{\"continue\":\"abc_1\",\"resourceVersion\":\"7\"}";
        let before = format!("{{{meta},{items}}}");
        let after = format!("{{{items},\"kind\":\"L\",{meta}}}");
        for list in [before, after] {
            assert_eq!(next_page(list.as_bytes()).unwrap().unwrap(), "abc_1");
        }
        let last = format!("{{{items},\"metadata\":{{\"resourceVersion\":\"7\"}}}}");
        assert_eq!(next_page(last.as_bytes()).unwrap(), None);
        assert!(next_page(b"{\"continue\":\"a&b\"}").is_err());
    }
}
