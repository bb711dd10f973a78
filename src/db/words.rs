//! Enums that are stored as words: diesel's conversions, so that a row has the enum itself.
//!
//! A word that this program does not know is an error that names it, and never another state: a newer program may have
//! written it, or somebody by hand.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, Queryable};
use diesel::expression::AsExpression;
use diesel::internal::derives::as_expression::Bound;
use diesel::pg::Pg;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{Nullable, Text};
use diesel::sqlite::Sqlite;

use super::connection::AnyConnection;
use crate::types::{AdminState, Health, Mode};

/// Either backend, which is only known when the program runs.
type Any = <AnyConnection as diesel::Connection>::Backend;

/// Stores enums that have `word` and `of_word`.
macro_rules! stored_as_words {
    ($($name:ident, $what:literal;)+) => {$(
        impl<DB: Backend> FromSql<Text, DB> for $name
        where
            String: FromSql<Text, DB>,
        {
            fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
                let word = String::from_sql(bytes)?;
                Self::of_word(&word).ok_or_else(|| format!("{word:?} is no {} that this program knows", $what).into())
            }
        }

        impl ToSql<Text, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                <str as ToSql<Text, Pg>>::to_sql(self.word(), &mut out.reborrow())
            }
        }

        impl ToSql<Text, Sqlite> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                out.set_value(self.word());
                Ok(IsNull::No)
            }
        }

        impl ToSql<Text, Any> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Any>) -> serialize::Result {
                out.set_value((Text, self.word()));
                Ok(IsNull::No)
            }
        }

        impl<DB: Backend> Queryable<Text, DB> for $name
        where
            Self: FromSql<Text, DB>,
        {
            type Row = Self;

            fn build(row: Self) -> deserialize::Result<Self> {
                Ok(row)
            }
        }

        impl AsExpression<Text> for $name {
            type Expression = Bound<Text, Self>;

            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl<'a> AsExpression<Text> for &'a $name {
            type Expression = Bound<Text, Self>;

            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl AsExpression<Nullable<Text>> for $name {
            type Expression = Bound<Nullable<Text>, Self>;

            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }
    )+};
}

stored_as_words! {
    Mode, "mode of a cluster";
    Health, "health of a storage server";
    AdminState, "administrative state of a storage server";
}
