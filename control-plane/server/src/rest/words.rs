//! The closed sets of words as they stand in answers and in the OpenAPI document: one list for both.

use std::borrow::Cow;

use millrace_domain::word::Word;
use millrace_domain::{EventKind, OffReason};
use millrace_protocol::node::{ChannelKind, HistoryClass, KeyAlgorithm, Role, SlowConsumer};
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::record::webhook_log::AttemptResult;

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:ident;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) struct $name(pub(crate) $word);

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(self.0.word())
                }
            }

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    schema::<$word>(concat!($($doc),+).trim())
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($word).into()
                }
            }
        )+
    };
}

words! {
    /// What a channel is for: `dm` one or two people, `group` many who all write, `broadcast` few write and many read.
    KindWord = ChannelKind;
    /// What is kept of a channel's messages: `durable` all, acknowledged after they are stored; `windowed` stored within a second of their delivery; `none` nothing.
    HistoryWord = HistoryClass;
    /// What happens to a session that reads too slowly: `disconnect` ends it so that it resumes whole, `skip` drops messages and tells it which.
    SlowConsumerWord = SlowConsumer;
    /// What a member may do: `owner` everything, `moderator` manages members, `member` publishes except in a broadcast, `reader` reads.
    RoleWord = Role;
    /// How a key signs: `EdDSA` Ed25519, `ES256` ECDSA on P-256, `HS256` a shared secret.
    AlgorithmWord = KeyAlgorithm;
    /// What a webhook can hear of. `message.sent` is of durable channels.
    EventWord = EventKind;
    /// Why a webhook is off: `asked` by a request, `failing` as nothing was delivered for three days, `gone` as its endpoint answered 410, `backlog` as more waited for it than may.
    OffWord = OffReason;
    /// What became of an attempt: `delivered`, `retrying` another one follows, `failed` none does.
    ResultWord = AttemptResult;
}

fn schema<T: Word>(description: &str) -> RefOr<Schema> {
    let words = T::ALL.iter().map(|(_, word)| serde_json::Value::from(*word));
    let object = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .description(Some(description))
        .enum_values(Some(words));
    RefOr::T(Schema::Object(object.build()))
}
