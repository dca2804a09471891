"""The data set that mmext draws itself."""
