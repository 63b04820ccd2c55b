//! Where tokens come from.

use std::pin::Pin;
use std::sync::Arc;

use crate::error::Error;

type Fetch = Pin<Box<dyn Future<Output = Result<Arc<str>, Error>> + Send>>;

/// A fixed token, or a function that gets one.
#[derive(Clone)]
pub(crate) enum TokenSource {
    Fixed(Arc<str>),
    Provider(Arc<dyn Fn() -> Fetch + Send + Sync>),
}

impl TokenSource {
    pub(crate) fn provider<F, R, E>(provider: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::Provider(Arc::new(move || {
            let token = provider();
            Box::pin(async move { token.await.map(Into::into).map_err(|error| Error::Token(error.into().into())) })
        }))
    }

    pub(crate) fn fetch(&self) -> Fetch {
        match self {
            Self::Fixed(token) => Box::pin(std::future::ready(Ok(token.clone()))),
            Self::Provider(provider) => provider(),
        }
    }

    /// Whether asking again can give another token.
    pub(crate) fn renews(&self) -> bool {
        matches!(self, Self::Provider(_))
    }
}
