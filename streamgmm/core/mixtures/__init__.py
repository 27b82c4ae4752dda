"""Operations on fitted mixtures: conditioning, reduction, merging, alignment, sampling."""
