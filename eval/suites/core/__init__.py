"""A centred average over what a base model is usually asked, after the CORE of DataComp-LM."""
