//! What a unit that multiplies whole blocks offers: tiles of 12 rows of activations times the codes of a panel's block.

/// Rows of a product.
pub(crate) const ROWS: usize = 12;
/// Products that are held at a time.
pub(crate) const PRODUCTS: usize = 4;

/// Instructions on registers that hold tiles: products 0 to 3 of rows by 16 lanes of i32, activations 0 and 1,
/// codes 0 and 1. The unit runs ahead of the vector instructions: a product should be stored four products later.
///
/// # Safety
/// Every method needs the unit, and all but `begin` come between `begin` and `end` on the same thread. Pointers are valid for
/// the tile that is named.
pub(crate) trait MatrixUnit {
    /// From here on a product is over `words` words of four columns: 16 of a double block, 8 of a block, 4 of half a block; of
    /// [`UNIT_ROWS`](crate::activations::UNIT_ROWS) rows of double blocks, else of [`ROWS`].
    unsafe fn begin(words: usize);
    /// Give the registers back.
    unsafe fn end();
    /// Product `P` is zero.
    unsafe fn clear<const P: usize>();
    /// Product `P` is its rows of 16 at `from`, rows `stride` integers apart.
    unsafe fn load<const P: usize>(from: *const i32, stride: usize);
    /// Rows of words at `from`, `stride` words apart.
    unsafe fn load_activations<const A: usize>(from: *const i32, stride: usize);
    /// `[words][16][4]` codes, signed.
    unsafe fn load_codes<const C: usize>(from: *const u8);
    /// Product `P` is increased by activations `A` times codes `C`.
    unsafe fn multiply<const P: usize, const A: usize, const C: usize>();
    /// Product `P` goes to `to`, rows of 16, `stride` integers apart.
    unsafe fn store<const P: usize>(to: *mut i32, stride: usize);
}
