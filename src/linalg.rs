//! Decompositions of dense matrices, through `faer`.
