import AttentionBlocks
import CSwiftAttnShims

/// The products for blocks in which some pairs are hidden and an operand of a hidden pair may be NaN or infinite: 0 *
/// NaN would leak it, so hidden pairs are skipped one by one. Same order of summation as `multiply`. Rare, so simple.

/// C[d][query] += sum over visible keys of A(d, key) * B[key][query].
@inline(never)
func multiplyVisibleKeys<V: LaneVector>(
  _ product: BlockProduct<V.Scalar>, _ panel: PanelScores<V.Scalar>, _: V.Type
) {
  guard let visibility = panel.visibility else { return }
  for vector in 0..<product.vectors {
    let lane = vector &* V.lanes
    for row in 0..<product.rows {
      let destination = product.c + (row &* product.cStride &+ lane)
      var sum = V.load(destination)
      for p in 0..<product.depth {
        let key = panel.firstKey &+ p
        let scalar = V(repeating: product.a[row &* product.aRowStride &+ p &* product.aDepthStride])
        let next = V.fma(scalar, V.load(product.b + (p &* product.bStride &+ lane)), sum)
        let words = visibility + ((key &>> 5) &* panel.visibilityStride &+ lane)
        sum = V.whereBit(words, 1 &<< UInt32(truncatingIfNeeded: key & 31), next, sum)
      }
      sum.store(destination)
    }
  }
}

/// C[key][d] += sum over queries that see the key of A(key, query) * B[query][d].
@inline(never)
func multiplyVisibleQueries<V: LaneVector>(
  _ product: BlockProduct<V.Scalar>, _ panel: PanelScores<V.Scalar>, _: V.Type
) {
  guard let visibility = panel.visibility else { return }
  for row in 0..<product.rows {
    let key = panel.firstKey &+ row
    let words = visibility + (key &>> 5) &* panel.visibilityStride
    for p in 0..<product.depth where (words[p] &>> UInt32(truncatingIfNeeded: key & 31)) & 1 != 0 {
      let scalar = V(repeating: product.a[row &* product.aRowStride &+ p &* product.aDepthStride])
      for vector in 0..<product.vectors {
        let lane = vector &* V.lanes
        let destination = product.c + (row &* product.cStride &+ lane)
        V.fma(scalar, V.load(product.b + (p &* product.bStride &+ lane)), V.load(destination)).store(destination)
      }
    }
  }
}

/// The words of rows lose the bits of keys that the mask hides.
@inline(never)
func hideByMask(_ mask: ScatteredRows<UInt8>, leading: Int, _ words: UnsafeMutablePointer<UInt64>) {
  keep(words, leading: leading, of: mask) { sa_mask_word($0, mask.stride, mask.columns) }
}

/// The words of rows lose the bits of keys whose bias is -inf.
@inline(never)
func hideByBias<V: LaneVector>(
  _ bias: ScatteredRows<V.Scalar>, leading: Int, _ words: UnsafeMutablePointer<UInt64>, _: V.Type
) {
  keep(words, leading: leading, of: bias) { V.biasWord($0, bias.stride, bias.columns) }
}

/// A row at the place of the one before, as where a mask is broadcast, shares its word.
@inline(__always)
private func keep<T>(
  _ words: UnsafeMutablePointer<UInt64>, leading: Int, of rows: ScatteredRows<T>, _ word: (UnsafePointer<T>) -> UInt64
) {
  var offset = Int.min
  var kept: UInt64 = 0
  for row in 0..<rows.rows {
    if rows.offsets[row] != offset {
      offset = rows.offsets[row]
      kept = word(rows.base + offset) &<< UInt64(leading) | ((1 &<< UInt64(leading)) &- 1)
    }
    words[row] &= kept
  }
}

/// Is any element NaN or infinite? x * 0 is 0 for finite x and NaN otherwise.
@inline(never)
func hasNonFinite<V: LaneVector>(
  _ first: UnsafePointer<V.Scalar>, rowStride: Int, columnStride: Int, rows: Int, columns: Int, _: V.Type
) -> Bool {
  var found = V.zero
  var foundScalar: V.Scalar = 0
  for row in 0..<rows {
    let start = first + row &* rowStride
    var column = 0
    if columnStride == 1 {
      while column &+ V.lanes <= columns {
        found = V.fma(V.load(start + column), V.zero, found)
        column &+= V.lanes
      }
    }
    while column < columns {
      foundScalar += start[column &* columnStride] * 0
      column &+= 1
    }
  }
  return V.anyUnequal(found, found) || foundScalar != foundScalar
}
