/* Undefines the macros of an instruction set; see instruction_sets.h. */
#undef SRT_LANES
#undef SRT_GROUP
#undef SRT_BLOCK
#undef SRT_PAIRS
#undef SRT_VECTORS
#undef SRT_PIXELS
#undef SRT_TILES
#undef SRT_TARGET
#undef SRT_NAME
#undef VEC
#undef INLINE
#undef AT
#undef FROM
